"""LiteLLM's Router with the limits told: `router.py TASKS`; keys as name=rpm:parallel in PEER_LIMITS. Prints JSON."""

import asyncio
import json
import os
import sys
import time

import litellm
from litellm import Router

litellm.suppress_debug_info = True
MODEL = os.environ["PEER_MODEL"]


def deployments() -> list:
    """One deployment a key, with its requests per minute and its calls at once."""
    found = []
    for told in os.environ["PEER_LIMITS"].split(","):
        key, _, figures = told.partition("=")
        rpm, parallel = figures.split(":")
        params = {
            "model": f"openai/{MODEL}",
            "api_base": os.environ["PEER_UPSTREAM"],
            "api_key": key,
            "rpm": int(float(rpm)),
            "max_parallel_requests": int(parallel),
        }
        found.append({"model_name": MODEL, "litellm_params": params})
    return found


async def main(tasks: int) -> dict:
    """All at once; the Router holds back, spreads and retries."""
    router = Router(
        model_list=deployments(),
        routing_strategy=os.environ.get("PEER_STRATEGY", "simple-shuffle"),  # weighted by rpm
        num_retries=5,
        timeout=600,
        set_verbose=False,
    )
    failed = 0

    async def one(n: int) -> None:
        nonlocal failed
        try:
            await router.acompletion(model=MODEL, messages=[{"role": "user", "content": f"Count to {n}."}])
        except Exception:
            failed += 1

    began = time.monotonic()
    await asyncio.gather(*(one(n) for n in range(tasks)))
    return {"seconds": time.monotonic() - began, "failed": failed}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1])))))
