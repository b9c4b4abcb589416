"""Fine-tune a LLaVA checkpoint on videos while a compressor drops their tokens; docs/finetuning.md explains it.

    accelerate launch scripts/finetune.py --model MODEL --data train.json --output DIRECTORY

The vision tower stays as it is. Projector, newline and language model learn, from the tokens that are kept.
"""

from __future__ import annotations

import argparse
import json
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, RandomSampler

from llava.mm_utils import get_model_name_from_path
from llava.model.builder import load_pretrained_model, resolve_dtype
from llava.model.checkpoint import checkpoint_config
from llava.train import VideoConversations, collate, read_examples
from llava.video import FrameSampling
from vidcom2 import compressor

parser = argparse.ArgumentParser(description="fine-tune a LLaVA checkpoint under a compressor")
parser.add_argument("--model", required=True, help="checkpoint directory or hub name")
parser.add_argument("--data", required=True, type=Path, help="JSON list of conversations, with the videos beside it")
parser.add_argument("--output", required=True, type=Path, help="directory for the new checkpoint")
parser.add_argument("--compressor", default="vidcom2@0.15", help="method and settings, or none [%(default)s]")
parser.add_argument("--sampling", default="uniform:32", help="frames, as in an evaluation [%(default)s]")
parser.add_argument("--template", default="qwen_1_5", help="the model's conversation template [%(default)s]")
parser.add_argument("--steps", type=int, default=100, help="updates of the weights [%(default)s]")
parser.add_argument("--batch", type=int, default=8, help="conversations per step and process [%(default)s]")
parser.add_argument("--rate", type=float, default=1e-5, help="highest learning rate [%(default)s]")
parser.add_argument("--seed", type=int, default=0, help="seed of the order of the conversations [%(default)s]")
parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing: less memory, more time")


def main(args: argparse.Namespace) -> None:
    """Train, and write the checkpoint. Every process runs this."""
    accelerator = Accelerator()
    try:
        method, sampling = compressor(args.compressor), FrameSampling.parse(args.sampling)
        examples = read_examples(args.data)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    if method.stage == "inside LLM":
        raise SystemExit(f"--compressor {method.spec} shortens the layers, and labels need one length: take another")
    options = {"device_map": None, "torch_dtype": "float32", "attn_implementation": "sdpa", "compressor": None}
    name = get_model_name_from_path(args.model)
    tokenizer, model, processor, _ = load_pretrained_model(args.model, None, name, **options)
    model.get_vision_tower().requires_grad_(False)
    model.train()
    if args.checkpointing:
        model.gradient_checkpointing_enable()

    data = VideoConversations(examples, tokenizer, processor, sampling, args.template)
    if len(data) < (together := args.batch * accelerator.num_processes):
        raise SystemExit(f"{args.data} has {len(data)} conversations, and a step takes {together}: lower --batch")
    order = RandomSampler(data, generator=torch.Generator().manual_seed(args.seed))  # whatever the processes
    loader = DataLoader(data, args.batch, sampler=order, drop_last=True, collate_fn=collate)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.0)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.print(f"{len(data)} conversations, {together} per step in {accelerator.num_processes} processes")

    losses = []
    with method(model) as run:  # DDP or DeepSpeed may be around the model: the compressor finds it
        for step, batch in enumerate(islice(chain.from_iterable(repeat(loader)), args.steps)):
            for group in optimizer.param_groups:  # up in a tenth of the steps, then down to 0
                group["lr"] = args.rate * min((step + 1) / max(1, args.steps // 10), 1 - step / args.steps)
            loss = model(**batch, use_cache=False).loss
            if not loss.isfinite():
                raise SystemExit(f"step {step}: the loss is {loss.item()}; lower --rate, or take fewer frames")
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(accelerator.reduce(loss.detach(), "mean").item())
            if step % 10 == 0:
                accelerator.print(f"step {step}: loss {losses[-1]:.4f}, {run}")

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        config = checkpoint_config(args.model)
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"  # the new checkpoint has that of the old
        accelerator.unwrap_model(model).to(resolve_dtype(dtype)).save_pretrained(args.output)
        tokenizer.save_pretrained(args.output)
        record = {key: str(value) for key, value in vars(args).items()}
        record |= {"processes": accelerator.num_processes, "losses": losses}
        (args.output / "finetune.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    accelerator.end_training()


if __name__ == "__main__":
    main(parser.parse_args())
