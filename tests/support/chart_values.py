"""The four installations whose renderings are kept, by name."""

from __future__ import annotations

from typing import Any

DIGEST = "sha256:" + "0123456789abcdef" * 4

EVERYTHING: dict[str, Any] = {
    "images": {
        "operator": {"repository": "registry.example:5000/paddock/operator", "tag": "v9", "digest": DIGEST},
        "gateway": {"repository": "registry.example:5000/paddock/gateway", "tag": "v9"},
        "runner": {"repository": "registry.example:5000/paddock/runner", "digest": DIGEST},
        "pullPolicy": "Always",
    },
    "imagePullSecrets": ["registry"],
    "replicas": 2,
    "watch": {"namespaces": ["chat", "lab"]},
    "endpointNamespaces": ["chat"],
    "cache": {
        "mode": "Node",
        "claimName": "weights",
        "size": "2Ti",
        "storageClass": "paddock-local",
        "accessMode": "ReadWriteMany",
    },
    "sources": {
        "allow": [
            {"host": "files.example:8000", "cidr": "10.1.0.0/16", "port": 8000},
            {"host": "mirror.example", "cidr": "192.0.2.7/32"},
        ],
        "mirrors": [
            {"host": "registry.ollama.ai", "url": "https://mirror.example:8443/ollama", "cidr": "10.2.0.0/16"},
            {"host": "huggingface.co", "url": "https://hub.example"},
        ],
        "proxy": {
            "https": "http://proxy.example:3128",
            "http": "http://proxy.example:3128",
            "noProxy": [".example", "10.0.0.0/8"],
            "cidr": "10.3.0.0/28",
            "secret": "proxy",
        },
        "offline": False,
        "rate": "50M",
        "connections": 16,
        "caConfigMap": "authorities",
        "huggingFaceEndpoint": "https://hub.example",
    },
    "apiServer": {"cidr": "10.0.0.0/8", "ports": [6443]},
    "maxRolling": 10,
    "driftSeconds": 0,
    "collectSeconds": 2000000,
    "collectMinAgeSeconds": 0,
    "resyncSeconds": 60,
    "workers": 16,
    "crds": {"enabled": False},
    "rbac": {"clusterRoles": False},
    "networkPolicy": {
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    },
    "podAnnotations": {"example.org/team": "models"},
    "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": 2, "memory": "1Gi"}},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "control", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "paddock-operator"}},
                }
            ]
        }
    },
    "priorityClassName": "system-cluster-critical",
}
INSTALLATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "namespaced": {"watch": {"namespaces": ["chat", "lab"]}, "endpointNamespaces": ["chat"]},
    "two-replicas": {"replicas": 2},
    "everything": EVERYTHING,
}
