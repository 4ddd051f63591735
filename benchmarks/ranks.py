"""A head whose classes are spread over processes: memory, traffic and time of a step.

    python benchmarks/ranks.py --classes 1000000 --size 128 --processes 1 2

Processes of this machine talk over the loopback device, whose counter of bytes is read:
keep other traffic off it. Written as one line of JSON, and as a table.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import socket
import time
from pathlib import Path

import torch

from sb_margins import select


def loopback_bytes() -> int:
    """What went over the loopback device since the machine started."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    return 0


def theory(batch: int, size: int, processes: int, dtype: int = 4) -> float:
    """Bytes that a process sends in a step of a loss that keeps all classes.

    ``batch`` is that of all processes. Gathered: embeddings, labels (8 bytes), cuts
    and two gradients per row; reduced and scattered: the embeddings' gradients and the
    targets' scores; reduced: two maxima and a sum per row. gloo scatters by reducing
    for all, which sends twice as much as NCCL.
    """
    others = (processes - 1) / processes
    gathered = batch * (size * dtype + 8 + 3 * dtype) * others
    scattered = 2 * batch * (size + 1) * dtype * others
    return gathered + scattered + 2 * others * batch * 3 * dtype


def resident() -> int:
    """Bytes of memory of this process alone, as the system counts them."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty"):
            return int(line.split()[1]) * 1024
    return 0


def measure(rank: int, size: int, port: int, args: argparse.Namespace, out) -> None:
    """Some steps of head and Adam; figures of this process into ``out``."""
    torch.set_num_threads(args.threads)
    if size > 1:
        os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
        torch.distributed.init_process_group("gloo", rank=rank, world_size=size)
    before = resident()
    torch.manual_seed(0)
    head = select.head(args.loss, args.size, args.classes)
    if size > 1:
        head.spread()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3, fused=True)
    rows = args.batch // size
    x = torch.randn(rows, args.size, requires_grad=True)
    labels = torch.randint(args.classes, (rows,))
    times, cpus, sent = [], [], 0
    for step in range(args.steps + 1):
        if size > 1:
            torch.distributed.barrier()
        start, cpu = time.perf_counter(), time.process_time()
        counted = loopback_bytes()
        head(x, labels).backward()
        sent += (loopback_bytes() - counted) * (step > 0)
        optimizer.step()
        cpus.append(time.process_time() - cpu)
        times.append(time.perf_counter() - start)
        optimizer.zero_grad(set_to_none=False)
    held = [p.grad for p in head.parameters()] + list(head.parameters())
    held += [v for s in optimizer.state.values() for v in s.values()]
    out.put(
        {
            "processes": size,
            "tensors_gib": sum(v.numel() * v.element_size() for v in held) / 2**30,
            "resident_gib": (resident() - before) / 2**30,
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "seconds": min(times[1:]),
            "cpu": min(cpus[1:]),
            "bytes": sent / args.steps / size,
            "theory": theory(args.batch, args.size, size),
        }
    )
    if size > 1:
        torch.distributed.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64, help="of all processes")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loss", default="aam")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    names = "processes | tensors GiB | resident GiB | s/step | CPU s/step | bytes sent"
    print(f"| {names} | theory |\n|---:|---:|---:|---:|---:|---:|---:|")
    for size in args.processes:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        out = context.SimpleQueue()
        started = [
            context.Process(target=measure, args=(rank, size, port, args, out))
            for rank in range(size)
        ]
        for process in started:
            process.start()
        found = [out.get() for _ in started]
        for process in started:
            process.join()
        worst = {key: max(one[key] for one in found) for key in found[0]}
        print(json.dumps({**vars(args), **worst}))
        print(
            "| {processes} | {tensors_gib:.2f} | {resident_gib:.2f} | {seconds:.2f} | "
            "{cpu:.2f} | {bytes:,.0f} | {theory:,.0f} |".format(**worst)
        )


if __name__ == "__main__":
    main()
