"""Threads of a program: how long they spin when they wait for each other, and how many processors there are."""

import os

# OpenMP's threads wait for each other after every operation of the network. They spin first, so that the next
# operation begins at once: 300,000 turns (about 3 ms) with GCC's library, 200 ms with LLVM's and Intel's. When other
# programs use the processors too, the spinning threads keep the thread that they wait for from running, and a training
# step costs ten times the processor time and more. With these values it costs less, yet more than on a quiet machine;
# smaller ones cost less still, and make a step slower on a quiet one. Each library ignores the variable of the others.
SPINNING = {
    # GCC's libgomp: PyTorch's packages for Linux.
    "GOMP_SPINCOUNT": "10000",
    # Milliseconds; LLVM's libomp and Intel's libiomp5: PyTorch's packages for macOS and Windows, and conda's. The value
    # is that of PyTorch's own launcher (torch.backends.xeon.run_cpu).
    "KMP_BLOCKTIME": "1",
}
POLICY = "OMP_WAIT_POLICY"  # the variable of the OpenMP standard; those above would overrule it


def bound_spinning() -> None:
    """Let the threads of OpenMP spin briefly, in this process and in those that it starts.

    For programs, before anything imports torch: OpenMP reads the environment once, when it is loaded. Values that the
    user has set stay. The package never calls it on import; the command line and the scripts do.
    """
    if POLICY not in os.environ:
        for name, value in SPINNING.items():
            os.environ.setdefault(name, value)


def processors() -> int:
    """How many processors this process may use; a batch system or ``taskset`` may have given it some of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
