"""Elementwise functions as oneDNN's generated kernels compute them in float32, step by step.

oneDNN 3.2, src/cpu/x64/injectors/jit_uni_eltwise_injector.cpp, in the variant for AVX-512; each function here
names the one that it follows. A fused multiply-add rounds once, all else rounds after each step.
"""

import torch
from torch import Tensor

from jitquant.exact.arithmetic import fma
from jitquant.exact.onednn_tables import erf_coefficients, tanh_coefficients


def times_plus(x: Tensor, factor: float, summand: float) -> Tensor:
    """x × factor + summand rounded once, with numbers that are brought to float32 first."""
    return fma(x, torch.tensor(factor, dtype=torch.float32), torch.tensor(summand, dtype=torch.float32))


def horner(x: Tensor, coefficients: list[float]) -> Tensor:
    """The polynomial with these coefficients, the one of the highest degree first, by fused steps."""
    result = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result = fma(result, x, torch.tensor(coefficient, dtype=torch.float32))
    return result


def at_least(x: Tensor, bound: float) -> Tensor:
    """max(x, bound) as vmaxps gives it: the bound for NaN, and its zero for minus zero."""
    return torch.where(x > bound, x, torch.full_like(x, bound))


def at_most(x: Tensor, bound: float) -> Tensor:
    """min(x, bound) as vminps gives it: the bound for NaN."""
    return torch.where(x < bound, x, torch.full_like(x, bound))


def power_of_two(exponent: Tensor) -> Tensor:
    """Two to a whole power up to 127, and zero below -126, where its bits have no place for it: float32."""
    powers = torch.exp2(exponent.double()).float()
    return torch.where(exponent < -126, torch.zeros_like(powers), powers)


def exponential(x: Tensor) -> Tensor:
    """2ⁿ × p(x - n ln 2) with n = floor(x log₂e + ½) and p of degree five; exp_compute_vector_fwd."""
    least, most = -87.3365479, 88.7228394
    bounded = at_least(at_most(x, most), least)
    power = torch.floor(bounded * 1.44269502 + 0.5)
    rest = fma(power, torch.tensor(-0.693147182, dtype=torch.float32), bounded)
    series = [0.00828929059, 0.0418978221, 0.166676521, 0.499991506, 0.999999701, 1.0]
    result = horner(rest, series) * power_of_two(power - 1) * 2.0
    return torch.where(x < least, torch.zeros_like(x), result)


def logistic(x: Tensor) -> Tensor:
    """e / (e + 1) of e = exp(-|x|), and one less that above zero; logistic_compute_vector_fwd."""
    power = exponential(-x.abs())
    below = power / (power + 1.0)
    return torch.where(torch.signbit(x), below, 1.0 - below)


def hyperbolic_tangent(x: Tensor) -> Tensor:
    """x near zero, one from 9.01 on, and else a polynomial of |x| from the beginning of its interval on.

    An interval is the half of a power of two; tanh_compute_vector_fwd.
    """
    size = x.abs()
    mantissa, exponent = torch.frexp(size)  # of [½, 1)
    halves = torch.floor(mantissa * 4.0)  # two or three quarters: where the interval starts
    rest = ((mantissa.double() - halves * 0.25) * torch.exp2(exponent.double())).float()
    interval = (exponent * 2 + halves.to(torch.int32) + 20) & 31
    coefficients = tanh_coefficients()[:, interval.long()]
    result = coefficients[6]
    for degree in range(5, -1, -1):
        result = fma(result, rest, coefficients[degree])
    result = torch.where(size < 9.01091290, result, torch.ones_like(result))
    result = torch.where(size < 0.000422863959, size, result)
    return torch.copysign(result, x)


def gelu_erf(x: Tensor) -> Tensor:
    """x × (erf(x / √2) + 1) × ½, with erf as a polynomial of |x| for each quarter of a power of two.

    gelu_erf_minimax_approx_compute_vector_fwd.
    """
    size = x.abs()
    mantissa, exponent = torch.frexp(size)  # of [½, 1)
    quarters = torch.ceil(mantissa * 8.0).to(torch.int32)  # the last number of an interval belongs to it
    interval = (exponent * 4 + quarters + 4).clamp(1, 24)
    interval = torch.where(size > 5.54259396, torch.full_like(interval, 23), interval)
    coefficients = erf_coefficients()[:, interval.long()]
    result = coefficients[5]
    for degree in range(4, -1, -1):
        result = fma(result, size, coefficients[degree])
    result = torch.where(torch.signbit(x), -result, result)
    return x * (result + 1.0) * 0.5


def gelu_tanh(x: Tensor) -> Tensor:
    """(tanh(√(2/π) x (0.044715 x² + 1)) + 1) × ½ × x; gelu_tanh_compute_vector_fwd."""
    inner = times_plus(x * x, 0.0447149985, 1.0) * x * 0.797884583
    return (hyperbolic_tangent(inner) + 1.0) * 0.5 * x


def hardsigmoid(x: Tensor) -> Tensor:
    """x / 6 + ½ between zero and one; hardsigmoid_compute_vector_fwd."""
    return at_least(at_most(x * (1.0 / 6.0) + 0.5, 1.0), 0.0)


def elu(x: Tensor, alpha: float) -> Tensor:
    """(exp(x) - 1) × alpha up to zero, x above; elu_compute_vector_fwd."""
    return torch.where(x > 0, x, (exponential(x) - 1.0) * alpha)


def name_of(words: str) -> str:
    """The name of the elementwise function that a kernel is told, such as clip of "clip,0,6"."""
    return words.split(",")[0]


def argument(words: str, place: int) -> float:
    """One of the numbers behind the name."""
    return float(words.split(",")[place + 1])


def activated(x: Tensor, words: str) -> Tensor:
    """An elementwise function behind a primitive: csrc/runtime/onednn.cpp, append_activation."""
    name = name_of(words)
    if name == "clip":
        low, high = argument(words, 0), argument(words, 1)
        return at_least(x, 0.0) if low == 0 and high == float("inf") else at_most(at_least(x, low), high)
    if name == "hardswish":
        return hardsigmoid(x) * x
    if name == "hardsigmoid":
        return hardsigmoid(x)
    if name == "swish":
        return logistic(x) * x
    if name == "sigmoid":
        return logistic(x)
    if name == "tanh":
        return hyperbolic_tangent(x)
    if name == "gelu":
        return gelu_erf(x)
    if name == "gelu_tanh":
        return gelu_tanh(x)
    if name == "leaky_relu":
        return torch.where(x > 0, x, x * argument(words, 0))
    if name == "elu":
        return elu(x, argument(words, 0))
    return x
