"""
Do the launch files train alike, and what do they cost? For a machine with GPUs or NPUs:

    python benchmarks/launches.py --shape 0.5B --processes 1 --out launches.json

Each launch file trains the same random model on the same queries for a few steps of NEAT, in bf16; the first run is
one process in fp32. A row says how far its losses are from that run's, the peak memory of a device and the completion
tokens per second. Results are written after every run, so a run that fails or is stopped loses no other.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path


ROOT = Path(__file__).parent.parent
CONFIGS = ["single_device", "multi_gpu", "zero1", "zero2", "zero3", "fsdp2"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="0.5B", help="tiny, 135M, 0.5B or 1.5B")
    parser.add_argument("--configs", nargs="+", default=CONFIGS, help="names of launch files, e.g. npu_zero2")
    parser.add_argument("--processes", type=int, default=1, help="processes of every launch")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--groups", type=int, default=8, help="groups of 4 an optimizer step, over all processes")
    parser.add_argument("--query", type=int, default=256, help="tokens of a query")
    parser.add_argument("--completion", type=int, default=256, help="tokens of a completion")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--out", default="launches.json")
    parser.add_argument("--worker", metavar="FILE", help="used by the runs themselves")
    parser.add_argument("--fp32", action="store_true", help="used by the runs themselves")
    return parser.parse_args()


def model_folder(args: argparse.Namespace) -> Path:
    return Path(args.out).resolve().with_suffix(".model")


def save_model(args: argparse.Namespace) -> None:
    import torch
    from shapes import model_config
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(model_config(args.shape), dtype=torch.float32)
    model.save_pretrained(model_folder(args))


def worker(args: argparse.Namespace) -> None:
    import torch
    from peft import LoraConfig
    from shapes import byte_tokenizer, queries

    from trl_negalign import NEATConfig, NEATTrainer

    on_device = torch.accelerator.is_available()
    config = NEATConfig(
        output_dir=f"{args.worker}.run",
        num_generations=4,
        per_device_train_batch_size=4 * args.groups // args.processes,
        max_steps=args.steps,
        max_completion_length=args.completion,
        # fixed lengths, and the likeliest token whatever the process
        generation_kwargs={"min_new_tokens": args.completion},
        top_k=1,
        learning_rate=1e-5,
        logging_steps=1,
        save_strategy="no",
        model_init_kwargs={"dtype": "float32"},
        report_to="none",
        bf16=on_device and not args.fp32,
        use_cpu=not on_device,
    )
    trainer = NEATTrainer(
        model=str(model_folder(args)),  # random weights drawn under ZeRO-3 would be others
        reward_funcs=lambda completions, **kwargs: [float(sum(map(ord, text)) % 97) for text in completions],
        args=config,
        train_dataset=queries(args.groups * args.steps, args.query),
        processing_class=byte_tokenizer(),
        peft_config=LoraConfig(r=8, target_modules="all-linear") if args.lora else None,
    )
    trainer.train()
    peak = torch.accelerator.max_memory_allocated() / 2**30 if on_device else None
    if trainer.is_world_process_zero():
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        device = torch.get_device_module().get_device_name() if on_device else "CPU"
        seconds = sum(entry["step_time"] for entry in log[1:]) * config.gradient_accumulation_steps
        # two candidates of each group are sampled, two are the dataset's
        tokens = 2 * args.groups * args.completion * (len(log) - 1)
        result = {"losses": [entry["loss"] for entry in log], "peak_gib": peak, "device": device}
        Path(args.worker).write_text(json.dumps(result | {"tokens_per_second": tokens / seconds if seconds else None}))


def main() -> None:
    args = arguments()
    if args.worker:
        worker(args)
        return
    save_model(args)
    out, results = Path(args.out), []
    for name in ["fp32, one process", *args.configs]:
        file, alone = out.with_suffix(".partial"), name == "fp32, one process"
        file.unlink(missing_ok=True)
        config = ROOT / "accelerate_configs" / f"{'single_device' if alone else name}.yaml"
        launcher = ["--config_file", str(config), "--main_process_port", "0"]
        launcher += ["--num_processes", "1" if alone else str(args.processes)]
        launcher += ["--mixed_precision", "no"] if alone else []
        options = [*sys.argv[1:], "--worker", str(file.resolve()), *(["--fp32", "--processes", "1"] if alone else [])]
        print(f"{name} …", flush=True)
        start = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-m", "accelerate.commands.launch", *launcher, __file__, *options],
            capture_output=True,
            text=True,
        )
        row = {"name": name, "seconds": round(time.perf_counter() - start)}
        row |= json.loads(file.read_text()) if file.exists() else {"error": run.stderr[-2000:]}
        if results and "losses" in results[0] and "losses" in row:
            pairs = zip(row["losses"], results[0]["losses"], strict=True)
            row["largest_relative_loss_difference"] = max(abs(a - b) / max(abs(b), 1e-6) for a, b in pairs)
        results.append(row)
        out.write_text(json.dumps({"arguments": vars(args), "runs": results}, indent=2) + "\n")
        print(f"  { ({key: value for key, value in row.items() if key not in ('name', 'losses')}) }", flush=True)


if __name__ == "__main__":
    main()
