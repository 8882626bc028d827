"""LitServe around the plain network, with its batching on."""

# No annotations from the future: LitServe looks at them as they are.
import sys
from typing import Any

import litserve
import torch
from _plain_servers import Plain
from fastapi import Request


class Api(litserve.LitAPI):
    def setup(self, device: Any) -> None:
        self.plain = Plain()

    def decode_request(self, request: Request) -> torch.Tensor:
        return self.plain.read(request["file"].file.read())

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(inputs)

    def predict(self, x: torch.Tensor) -> list[int]:
        return self.plain.answer(x)

    def unbatch(self, output: list[int]) -> list[int]:
        return output

    def encode_response(self, output: int) -> dict[str, int]:
        return {"label": output}


if __name__ == "__main__":
    api = Api(max_batch_size=16, batch_timeout=0.01)
    litserve.LitServer(api, accelerator="cpu").run(
        port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="warning"
    )
