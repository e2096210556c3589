"""ms-swift plugin: run DeepSpeed with several processes on a CPU, so that ZeRO can be tested on any machine.

transformers and accelerate start DeepSpeed's process group on GPUs only. This plugin starts it over gloo while ms-swift
reads its arguments. DeepSpeed 0.18.9 does not allow for two differences between gloo and NCCL:

* gloo may finish operations in another order than they were started. ZeRO-3 waits only for the last of several gathers
  and then reads memory that nothing has written: weights of 1e26, losses of 0, in about half of the runs (DeepSpeed
  pull request 8539). The plugin waits for each gather.
* Gathers write into views of one flat tensor, which autograd allows only under no_grad.

On a GPU the plugin is not loaded. See ``deepspeed`` in :mod:`csp_utils.training.command`.
"""

import deepspeed
import torch
from deepspeed import comm

_all_gather = comm.all_gather_into_tensor


def all_gather_into_tensor(*args, **kwargs):
    """Run deepspeed.comm.all_gather_into_tensor and wait until it has finished."""
    with torch.no_grad():
        handle = _all_gather(*args, **kwargs)
    if handle is not None:
        handle.wait()
    return handle


if not comm.is_initialized():  # once, however often this file is loaded
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    comm.all_gather_into_tensor = comm.comm.all_gather_into_tensor = all_gather_into_tensor
