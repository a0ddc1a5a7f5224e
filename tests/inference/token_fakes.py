"""An inference server on a real socket: a tiny real model, real adapters, faults on demand."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from peft import PeftModel
from tests.inference.conftest import tiny_llama

from preftune.inference.generate import GenerateSettings, generate
from preftune.models.adapters import add_lora, load_adapter, use_adapter
from preftune.models.lora import LoraSettings

END = 0
CUT = Response("{", headers={"content-length": "1000"})
Fault = Callable[[int], str]


def adapted(seed: int) -> Any:
    """The tiny model with an adapter that moves its log-probs by much."""
    model = add_lora(tiny_llama(), LoraSettings(lora_rank=2), seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.3)
    return model.eval()


@dataclass
class Served:
    """The server's model, what it was asked, and which answer goes wrong how."""

    fault: Fault = lambda _: ""
    base: Callable[[], Any] = tiny_llama
    bodies: list[dict[str, Any]] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    loads_cut: int = 0  # answers to so many loads break off, though the adapter is there then
    model: Any = None
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


def completion(served: Served, body: dict[str, Any]) -> dict[str, Any]:
    """A good answer, drawn by the adapter that was named."""
    settings = GenerateSettings(
        max_new_tokens=body["max_tokens"], temperature=body["temperature"], top_p=body["top_p"]
    )
    use_adapter(served.model, body["model"])
    (drawn,) = generate(
        served.model,
        [tuple(body["prompt"])],
        settings,
        seeds=[body["seed"]],
        end_ids=body["stop_token_ids"],
        pad_id=1,
    )
    choice = {
        "finish_reason": "stop" if drawn.finished else "length",
        "token_ids": list(drawn.ids),
        "prompt_token_ids": body["prompt"],
        "logprobs": {
            "token_logprobs": list(drawn.logprobs),
            "tokens": [f"token_id:{token}" for token in drawn.ids],
        },
    }
    return {"model": body["model"], "choices": [choice]}


def spoilt(answer: dict[str, Any], fault: str) -> dict[str, Any]:
    """The answer with one thing wrong."""
    (choice,) = answer["choices"]
    if fault.startswith("model:"):
        return answer | {"model": fault.removeprefix("model:")}
    if fault == "no logprobs":
        choice["logprobs"] = None
    if fault == "short logprobs":
        choice["logprobs"]["token_logprobs"].pop()
    if fault == "wild logprobs":
        choice["logprobs"]["token_logprobs"][0] = 3.0
    if fault == "other ids":
        choice["token_ids"][0] = (choice["token_ids"][0] + 1) % 12 + 1
    if fault == "ids too large":
        choice["token_ids"] = [99] * len(choice["token_ids"])
        choice["logprobs"]["tokens"] = []
    if fault == "other prompt":
        choice["prompt_token_ids"] = [1, 2, 3]
    if fault == "text":
        del choice["token_ids"]
        choice["logprobs"]["tokens"] = ["wash"] * len(choice["logprobs"]["tokens"])
    if fault == "names":
        del choice["token_ids"]
    return answer


def said(what: str, status: int) -> JSONResponse:
    """An error as OpenAI-compatible servers say it."""
    return JSONResponse({"error": {"message": what}}, status_code=status)


def app_of(served: Served) -> FastAPI:
    """The three calls of the server."""
    app = FastAPI()

    @app.post("/v1/completions")
    async def complete(request: Request) -> Any:
        body = await request.json()
        served.bodies.append(body)
        fault = served.fault(len(served.bodies))
        if fault == "500":
            return said("it is broken", 500)
        if fault == "cut":
            return CUT
        if served.model is None or body["model"] not in served.model.peft_config:
            return said("no such model", 404)
        return spoilt(completion(served, body), fault)

    @app.post("/v1/load_lora_adapter")
    async def load(request: Request) -> Any:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        served.loads.append(name)
        if served.model is not None and name in served.model.peft_config:
            return said(f"{name} has already been loaded", 400)
        if served.model is None:
            served.model = load_adapter(served.base(), path, trainable=False, name=name)
        else:
            served.model.load_adapter(path, adapter_name=name)
        served.loads_cut -= 1
        return CUT if served.loads_cut >= 0 else Response("loaded")

    @app.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> Any:
        name = (await request.json())["lora_name"]
        if served.model is None or name not in served.model.peft_config:
            return said("not found", 404)
        if isinstance(served.model, PeftModel):
            served.model.delete_adapter(name)
        return Response("unloaded")

    return app


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    """Serve in a thread until the block ends."""
    config = uvicorn.Config(app_of(served), host="127.0.0.1", port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    served.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.should_exit = True
        thread.join()
