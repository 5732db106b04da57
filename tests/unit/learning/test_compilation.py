"""torch.compile: the same results, and going on without it."""

import logging
import shutil

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from online_swav.learning import augment, compilation
from online_swav.learning.compilation import compiled


def test_without_a_compiler_the_plain_function_goes_on(monkeypatch, caplog):
    calls = []

    def broken(_function, *, dynamic):
        def call(*_args):
            calls.append(dynamic)
            raise TorchDynamoException("no C compiler\nfound")

        return call

    monkeypatch.setattr(compilation.torch, "compile", broken)
    double = compiled(lambda x: 2 * x, dynamic=True)
    with caplog.at_level(logging.WARNING):
        assert double(3) == 6
        assert double(4) == 8
    assert calls == [True]  # not tried again
    assert "no C compiler" in caplog.text
    assert "--compile off" in caplog.text


def test_an_error_of_the_function_itself_is_not_hidden(monkeypatch):
    monkeypatch.setattr(compilation.torch, "compile", lambda function, **_: function)
    with pytest.raises(ZeroDivisionError):
        compiled(lambda x: 1 / x)(0)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_a_compiled_colour_operation_equals_the_plain_one():
    """The hue, the longest of them; in place, on some of the crops."""
    images, index = torch.rand(6, 3, 16, 16), torch.tensor([0, 2, 5])
    factor = torch.tensor([-0.2, 0.0, 0.3]).view(-1, 1, 1, 1)
    expected = images.clone()
    augment._hue(expected, index, factor)
    assert torch._dynamo.explain(augment._hue)(images.clone(), index, factor).graph_break_count == 0
    compiled(augment._hue, dynamic=True)(images, index, factor)
    torch.testing.assert_close(images, expected, atol=2e-5, rtol=0)
