"""A ComfyUI node that erases what a mask covers: image and mask in, image out.

Link or copy this folder into ComfyUI/custom_nodes. Without an address the network runs in ComfyUI's own process, for
which the folder must be a link into fftlama's checkout, or LAMA_CHECKOUT name it. With the address of a running
server the node needs nothing but what ComfyUI has.
"""

from .node import FftlamaErase

NODE_CLASS_MAPPINGS = {"FftlamaErase": FftlamaErase}
NODE_DISPLAY_NAME_MAPPINGS = {"FftlamaErase": "Erase (fftlama)"}
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
