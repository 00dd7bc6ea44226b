"""Buffers are reused once nothing refers to them, and not before."""

from __future__ import annotations

import threading

import numpy as np
import torch

from capdist.data.buffer_pool import empty

FP16 = np.dtype(np.float16)


def test_referenced_buffers_are_not_reused() -> None:
    tensors = [empty((3, 5, 7), FP16).fill_(number) for number in range(20)]
    assert len({tensor.data_ptr() for tensor in tensors}) == 20
    assert [float(tensor.mean()) for tensor in tensors] == list(range(20))


def test_views_and_arrays_keep_a_buffer() -> None:
    tensor = empty((4, 6), FP16).fill_(5)
    address = tensor.data_ptr()
    array = tensor[1:2].view(-1).numpy()
    del tensor
    others = [empty((4, 6), FP16).fill_(7) for _ in range(20)]
    assert address not in {other.data_ptr() for other in others}
    assert (array == 5).all()


def test_free_buffers_are_reused() -> None:
    if torch.cuda.is_available():
        return
    addresses = set()
    for _ in range(50):
        addresses.add(empty((100, 100), FP16).data_ptr())
    assert len(addresses) < 10


def test_threads_get_separate_buffers() -> None:
    wrong = []

    def use(number: int) -> None:
        for _ in range(300):
            tensor = empty((50, 50), FP16).fill_(number)
            if not bool((tensor == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
