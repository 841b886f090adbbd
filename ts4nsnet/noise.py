# SPDX-License-Identifier: BSD-3-Clause
"""Noise symmetric state over BLAKE2s and ChaCha20-Poly1305."""
