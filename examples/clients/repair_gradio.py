"""Repair a photo with gradio_client: files in, file out.

python repair_gradio.py photo.jpg mask.png result.jpg
"""

import os
import shutil
import sys

from gradio_client import Client, handle_file


def main(photo: str, mask: str, result: str, server: str = "http://127.0.0.1:7860") -> None:
    """Send both files and keep the answer."""
    key = os.environ.get("LAMA_API_KEY")
    client = Client(server, headers={"Authorization": f"Bearer {key}"} if key else None, verbose=False)
    # handle_file uploads; a bare path would be one of the server's own files, and is refused.
    path = client.predict(handle_file(photo), handle_file(mask), {"quality": "fast"}, api_name="/repair")
    shutil.copy(path, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
