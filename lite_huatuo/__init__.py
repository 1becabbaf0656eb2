"""lite-huatuo: the HuatuoGPT-o1 method with LoRA adapters on one frozen 4-bit base."""

__version__ = "0.1.0"
