# SPDX-License-Identifier: BSD-3-Clause
"""Valid bytes, somewhat damaged: what doors for untrusted bytes are tried with."""

from hypothesis import strategies as st


@st.composite
def mutants(draw: st.DrawFn, valid: bytes, piece: int = 8) -> bytes:
    """`valid` with up to four bytes changed, pieces of up to `piece` bytes cut out, doubled or put in."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.integers(0, piece)))
        change = draw(st.sampled_from(["set", "cut", "double", "insert"]))
        if change == "set" and begin < len(data):
            data[begin] = draw(st.integers(0, 255))
        elif change == "cut":
            del data[begin:end]
        elif change == "double":
            data[begin:begin] = data[begin:end]
        else:
            data[begin:begin] = draw(st.binary(max_size=piece))
    return bytes(data)
