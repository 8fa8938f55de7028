"""The planning core in one place: what an executor imports. See `plan_model` and `plan_endpoint`."""

from paddock_operator.core.plan_endpoint import plan_endpoint
from paddock_operator.core.plan_model import plan_model
from paddock_operator.core.plan_types import EndpointPlan, ModelPlan, Note

__all__ = ["EndpointPlan", "ModelPlan", "Note", "plan_endpoint", "plan_model"]
