"""What the API dialects claim to be. Used by the gateway and the runner's front, which must say the same."""

OLLAMA_VERSION = "0.33.0"
"""The version of Ollama whose interface this is; clients ask for it to know what they may use."""
