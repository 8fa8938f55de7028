"""Endpoints and API keys that must be refused: the document, a field that a message names, words of message or fix."""

from __future__ import annotations

from tests.crds.invalid_models import Case
from tests.crds.manifests import HEX, endpoint, policy, secret, selecting

IN = {"key": "a", "operator": "In"}

ENDPOINTS: list[Case] = [
    ({**endpoint(), "spec": {}}, "spec", "exactly one of models, selector"),
    (endpoint(selector={"matchLabels": {"a": "b"}}), "spec", "exactly one of models, selector"),
    (endpoint(models=[]), "spec.models", "at least 1 items"),
    (endpoint(models=None), "spec", "exactly one of models, selector"),
    (endpoint(models=[{"name": f"m{index}"} for index in range(65)]), "spec.models", "at most 64 items"),
    (endpoint(models=[{"name": "m"}, {"name": "m"}]), "spec.models[1]", "Duplicate value"),
    (endpoint(models=[{"name": 1}, {"name": 1}]), "spec.models[1]", "Duplicate value"),
    (endpoint(models=[{"aliases": ["a"]}]), "spec.models[0].name", "Required value"),
    (endpoint(models=[{"name": "m", "aliases": ["x", "x", "x"]}]), "spec.models[0].aliases[1]", "aliases[0]"),
    (endpoint(models=[{"name": "m", "aliases": ["a b"]}]), "spec.models[0].aliases[0]", "should match"),
    (endpoint(models=["m"]), "spec.models[0]", "must be of type object"),
    (selecting(), "spec.selector", "at least 1 properties"),
    (selecting(matchLabels={"a": "b" * 64}), "spec.selector.matchLabels.a", "may not be more than 63"),
    (selecting(matchExpressions=[IN]), "spec.selector.matchExpressions[0].values", "required"),
    (
        selecting(matchExpressions=[{"key": "a", "operator": "Exists", "values": ["x"]}]),
        "spec.selector.matchExpressions[0].values",
        "remove it",
    ),
    (selecting(matchExpressions=[{"key": "a", "operator": "Gt"}]), "spec.selector.matchExpressions[0].operator", "In"),
    (endpoint(auth={}), "spec.auth", "at least 1 properties"),
    (endpoint(auth={"apiKeys": None}), "spec.auth", "at least 1 properties"),
    (endpoint(auth={"none": {}, "apiKeys": {}}), "spec.auth.none", "excludes"),
    (endpoint(auth={"none": True}), "spec.auth.none", "must be of type object"),
    (endpoint(auth={"none": {"really": 1}}), "spec.auth.none.really", "no field may stand here"),
    (endpoint(auth="none"), "spec.auth", "must be of type object"),
    (endpoint(auth={"apiKeys": {"names": ["a", "a"]}}), "spec.auth.apiKeys.names[1]", "Duplicate value"),
    (endpoint(auth={"serviceAccounts": {"accounts": []}}), "spec.auth.serviceAccounts.accounts", "at least 1 items"),
    (
        endpoint(auth={"serviceAccounts": {"accounts": [{"name": "a", "namespace": "A"}]}}),
        "spec.auth.serviceAccounts.accounts[0].namespace",
        "should match",
    ),
    (
        endpoint(auth={"jwt": {"issuer": "i", "audience": "a", "jwksUrl": "http://x"}}),
        "spec.auth.jwt.jwksUrl",
        "should match",
    ),
    (endpoint(auth={"jwt": {"issuer": ""}}), "spec.auth.jwt.audience", "Required value"),
    (endpoint(limits={"requestPerMinute": 1}), "spec.limits.requestPerMinute", "did you mean"),
    (endpoint(limits={"bodyBytes": 1}), "spec.limits.bodyBytes", "equal to 1024"),
    (endpoint(limits={"queueWait": "soon"}), "spec.limits.queueWait", "30s"),
    (endpoint(apis=[]), "spec.apis", "at least 1 items"),
    (endpoint(apis=[None]), "spec.apis[0]", "Unsupported value: null"),
    (endpoint(apis=["grpc"]), "spec.apis[0]", "ollama"),
    (endpoint(apis=["ollama", "ollama"]), "spec.apis[1]", "Duplicate value"),
    (endpoint(apis=["ollama"] * 4), "spec.apis", "at most 3 items"),
    (endpoint(routing={"strategy": "LeastLoaded", "loadFactorPercent": 150}), "spec.routing", "PrefixAffinity"),
    (endpoint(routing={"loadFactorPercent": 99}), "spec.routing.loadFactorPercent", "equal to 100"),
    (endpoint(activation={"mode": "Wait"}), "spec.activation.mode", "Hold"),
    (endpoint(activation={"holdTimeout": "1d"}), "spec.activation.holdTimeout", "5m"),
    (endpoint(management="On"), "spec.management", "Enabled"),
    (endpoint(service={"port": 70000}), "spec.service.port", "equal to 65535"),
    (endpoint(service={"nodePort": 30000}), "spec.service.nodePort", "NodePort or LoadBalancer"),
    (endpoint(service={"loadBalancerClass": "x"}), "spec.service.loadBalancerClass", "LoadBalancer"),
    (endpoint(service={"annotations": {"a b": 5}}), "spec.service.annotations.a b", "must be of type string"),
    (endpoint(ingress={}), "spec.ingress.host", "Required value"),
    (endpoint(ingress={"host": "https://x"}), "spec.ingress.host", "should match"),
    (endpoint(httpRoute={"parentRefs": [{}]}), "spec.httpRoute.parentRefs[0].name", "Required value"),
    (endpoint(tls={"secretName": "A"}), "spec.tls.secretName", "should match"),
    (endpoint(network={"allowFrom": [{}]}), "spec.network.allowFrom[0]", "at least 1 properties"),
    (endpoint(network={"allowFrom": [{"cidr": "10.0.0.0"}]}), "spec.network.allowFrom[0].cidr", "10.0.0.0/8"),
    (
        endpoint(network={"allowFrom": [{"cidr": "10.0.0.0/8", "podSelector": {}}]}),
        "spec.network.allowFrom[0].cidr",
        "two entries",
    ),
    (
        endpoint(network={"allowFrom": [{"podSelector": {"matchExpressions": [IN]}}]}),
        "spec.network.allowFrom[0].podSelector.matchExpressions[0].values",
        "required",
    ),
    (
        endpoint(network={"allowFrom": [{"namespaceSelector": {"matchExpressions": [IN]}}]}),
        "spec.network.allowFrom[0].namespaceSelector.matchExpressions[0].values",
        "required",
    ),
    (endpoint(replicas=65), "spec.replicas", "equal to 64"),
]

# Secrets are opaque to an API server: only Paddock looks into them.
KEYS: list[Case] = [
    (secret(sha256="pdk_00000000_secret"), "sha256", "never the key itself"),
    (secret(sha256=None), "stringData.sha256", "must be a string"),
    (secret(stringData=None), "sha256", "missing"),
    (secret(stringData=None, data={"sha256": "***"}), "data", "base64"),
    (secret(stringData={"key": "x"}), "stringData.key", "unknown field"),
    (secret("["), "policy", "JSON object"),
    (secret("[" * 100_000), "policy", "limit of 16384"),
    (policy(model=["x"]), "policy.model", "did you mean policy.models?"),
    (policy(models="*"), "policy.models", "list"),
    (policy(models=["a b"]), "policy.models[0]", "public model name"),
    (policy(verbs=["infr"]), "policy.verbs[0]", "did you mean infer?"),
    (policy(expires="tomorrow"), "policy.expires", "RFC 3339"),
    (policy(previous={"sha256": HEX}), "policy.previous", "until"),
    (policy(previous={"sha256": HEX, "until": None}), "policy.previous.until", "RFC 3339"),
]
