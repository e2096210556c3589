"""ms-swift plugin: DeepSpeed among processes without a GPU, so that what ZeRO computes can be tested anywhere.

transformers and accelerate start DeepSpeed's process group on GPUs alone. Here it is started as ms-swift reads its
arguments, over gloo, whose two differences from NCCL DeepSpeed 0.18.9 does not allow for:

* What is asked for last need not be done last. ZeRO-3 waits for the last of several gathers, and went on with memory
  that nothing had been written to: weights of 1e26, losses of 0, in about half of the runs (DeepSpeed pull request
  8539). Here each gather is waited for.
* It gathers into views of one flat tensor, which autograd refuses outside of no_grad.

On a GPU none of this is used. See ``deepspeed`` in :mod:`csp_utils.training.command`.
"""

import deepspeed
import torch
from deepspeed import comm

_all_gather = comm.all_gather_into_tensor


def all_gather_into_tensor(*args, **kwargs):
    """deepspeed.comm.all_gather_into_tensor, which is done when it returns."""
    with torch.no_grad():
        handle = _all_gather(*args, **kwargs)
    if handle is not None:
        handle.wait()
    return handle


if not comm.is_initialized():  # once, however often this file is loaded
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    comm.all_gather_into_tensor = comm.comm.all_gather_into_tensor = all_gather_into_tensor
