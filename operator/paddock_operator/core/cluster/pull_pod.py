"""The pods that bring bytes into a cache: pullers and converters, with what each may see. Called by `pull_job`.

A puller has the network, the Secret of its source and the claim that its source names; a converter has llama.cpp and
the cache, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddock_operator.core.cluster.labels import (
    CACHE_PATH,
    CLAIMS_PATH,
    CONFIG_PATH,
    CONVERTER,
    PULLER,
    RUNNER,
    pod_selector,
)
from paddock_operator.core.cluster.meta import cache_mount, cache_volume, container, pod_spec
from paddock_operator.core.cluster.observed import ModelSeen
from paddock_operator.core.cluster.origins import asked_source
from paddock_operator.core.cluster.placement import MEBIBYTE, beside, memory_text, on_node, placement_fields
from paddock_operator.core.cluster.source_settings import Sources
from paddock_operator.core.resources import Model, secret_name

REQUESTS = {PULLER: "PADDOCK_PULL_REQUEST", CONVERTER: "PADDOCK_CONVERT_REQUEST"}
"""The environment variable with the request of each."""
CREDENTIALS = f"{CONFIG_PATH}/credentials"
CA_PATH = f"{CONFIG_PATH}/ca"
CA_KEY = "ca.crt"
PROXY_PATH = f"{CONFIG_PATH}/proxy"
# streaming with bounded buffers takes about 100 MiB; pages of the files that it writes can be reclaimed
RESOURCES = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}
_MESSAGE = ("--termination-message", "/dev/termination-log")


def puller_pod(seen: ModelSeen, model: Model, request: str, node: str) -> dict[str, Any]:
    """The pod spec of a puller, anywhere or on one node. `request` is JSON."""
    sources, images = seen.settings.sources, seen.settings.images
    volumes = [cache_volume(seen.settings.cache.claim_name, read_only=False)]
    mounts = [cache_mount(CACHE_PATH, read_only=False)]
    env = [(REQUESTS[PULLER], request), *network_variables(sources)]
    # no name of a registry: it would count as somebody's own, and keep the bytes of a deleted Model
    args = ["pull", "--models", CACHE_PATH, "--request", f"env:{REQUESTS[PULLER]}", "--pin-only", *_MESSAGE]
    source = asked_source(seen, model)
    if secret := secret_name(source):
        volumes.append({"name": "credentials", "secret": {"secretName": secret, "defaultMode": 0o440}})
        mounts.append({"name": "credentials", "mountPath": CREDENTIALS, "readOnly": True})
        args += ["--credentials", CREDENTIALS]
    if sources.ca_config_map:
        items = [{"key": CA_KEY, "path": CA_KEY}]
        volumes.append({"name": "ca", "configMap": {"name": sources.ca_config_map, "items": items}})
        mounts.append({"name": "ca", "mountPath": CA_PATH, "readOnly": True})
    if sources.proxy.secret:
        volumes.append({"name": "proxy", "secret": {"secretName": sources.proxy.secret, "defaultMode": 0o440}})
        mounts.append({"name": "proxy", "mountPath": PROXY_PATH, "readOnly": True})
    if claim := source.claim:
        asked = {"claimName": claim.claim_name, "readOnly": True}
        volumes.append({"name": "claim", "persistentVolumeClaim": asked})
        mounts.append({"name": "claim", "mountPath": f"{CLAIMS_PATH}/{claim.claim_name}", "readOnly": True})
        env.append(("PADDOCK_CLAIMS", CLAIMS_PATH))
    made = container(PULLER, images.gateway, images, args, RESOURCES, env=env, mounts=mounts)
    return pod_spec("paddock-puller", images, [made], volumes, restartPolicy="OnFailure", **_where(seen, model, node))


def converter_pod(seen: ModelSeen, model: Model, request: str, node: str, memory: int) -> dict[str, Any]:
    """The pod spec of a converter. `memory` is what it needs in bytes; all of it is asked for, and no more is given."""
    images, size = seen.settings.images, memory_text(-(-memory // MEBIBYTE) * MEBIBYTE)
    made = container(
        CONVERTER,
        images.runner,
        images,
        ["convert", "--models", CACHE_PATH, "--request", f"env:{REQUESTS[CONVERTER]}", *_MESSAGE],
        {"requests": {"cpu": "500m", "memory": size}, "limits": {"memory": size}},
        env=[(REQUESTS[CONVERTER], request)],
        mounts=[cache_mount(CACHE_PATH, read_only=False)],
    )
    volume = cache_volume(seen.settings.cache.claim_name, read_only=False)
    return pod_spec("paddock-puller", images, [made], [volume], restartPolicy="OnFailure", **_where(seen, model, node))


def network_variables(sources: Sources) -> list[tuple[str, str]]:
    """How pullers reach the network (docs/sources.md); what the settings leave open is left out."""
    proxy = sources.proxy
    listed = [*(source.host for source in sources.allow), *(item.authority for item in sources.mirrors if item.cidr)]
    values: Mapping[str, str] = {
        "PADDOCK_ALLOW_INSECURE_HOSTS": ",".join(dict.fromkeys(listed)),
        "PADDOCK_MIRRORS": ",".join(f"{item.host}={item.url}" for item in sources.mirrors),
        "HTTPS_PROXY": proxy.https,
        "HTTP_PROXY": proxy.http,
        "NO_PROXY": ",".join(proxy.no_proxy),
        "PADDOCK_PROXY_CREDENTIALS": PROXY_PATH if proxy.secret else "",
        "PADDOCK_OFFLINE": "1" if sources.offline else "",
        "PADDOCK_DOWNLOAD_RATE": sources.rate,
        "PADDOCK_DOWNLOAD_CONNECTIONS": str(sources.connections) if sources.connections else "",
        "PADDOCK_CA_FILE": f"{CA_PATH}/{CA_KEY}" if sources.ca_config_map else "",
        "HF_ENDPOINT": sources.hugging_face_endpoint,
    }
    return [(name, value) for name, value in values.items() if value]


def _where(seen: ModelSeen, model: Model, node: str) -> dict[str, Any]:
    if node:
        return on_node(model.spec.placement, node)
    # the first pod of a cache chooses the node of its volume: it has to be one that takes the runners, too
    where = placement_fields(model.spec.placement)
    if seen.settings.cache.mode == "Node":
        where.setdefault("affinity", beside({"matchLabels": pod_selector(model.ref, RUNNER)}))
    return where
