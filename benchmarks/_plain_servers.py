"""The plain way to serve: a FastAPI handler around torch."""

from __future__ import annotations

import io
import sys

import torch
import uvicorn
from _plain_loop import default_network, tutorial_transform
from fastapi import FastAPI, UploadFile
from PIL import Image
from torch import nn


class Plain:
    """The network of the benchmark, as tutorials run it: Pillow, torchvision, 32 bits."""

    def __init__(self) -> None:
        network = default_network()
        self.transform = tutorial_transform(network.backbone)
        self.network = nn.Sequential(*(child for _, child in network.children)).eval()

    def read(self, data: bytes) -> torch.Tensor:
        """Decode one picture to (3, S, S)."""
        with Image.open(io.BytesIO(data)) as image:
            tensor: torch.Tensor = self.transform(image.convert("RGB"))
        return tensor

    @torch.inference_mode()
    def answer(self, batch: torch.Tensor) -> list[int]:
        """Name the strongest feature of each of (N, 3, S, S): a head costs nothing beside it."""
        found: list[int] = self.network(batch).flatten(1).argmax(1).tolist()
        return found


def serve_plain(port: int) -> None:
    app, plain = FastAPI(), Plain()

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.post("/predict")
    async def predict(file: UploadFile) -> dict[str, int]:
        return {"label": plain.answer(plain.read(await file.read())[None])[0]}

    uvicorn.run(app, port=port, log_level="warning")


if __name__ == "__main__":
    serve_plain(int(sys.argv[1]))
