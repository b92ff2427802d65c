"""Ops that only move or select values."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.op_cases.case import spellings


def flatten(x: Tensor) -> Tensor:
    return torch.flatten(x, 1)


def flatten_method(x: Tensor) -> Tensor:
    return x.flatten(1, 2)


def view(x: Tensor) -> Tensor:
    return x.view(x.size(0), -1)


def view_behind_pooling(x: Tensor) -> Tensor:
    x = F.max_pool2d(x, 2)
    return x.view(-1, 8 * 6 * 6)


def view_fixed(x: Tensor) -> Tensor:
    return x.view(-1, 4, 2, 12, 12)


def reshape(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], 2, -1)


def reshape_function(x: Tensor) -> Tensor:
    return torch.reshape(x, [-1, 12])


def permute(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def permute_function(x: Tensor) -> Tensor:
    return torch.permute(x, [0, 3, 1, 2])


def transpose(x: Tensor) -> Tensor:
    return x.transpose(1, -1)


def transpose_function(x: Tensor) -> Tensor:
    return torch.transpose(x, 2, 3)


def transpose_in_place(x: Tensor) -> Tensor:
    return x.transpose_(2, 3)


def t(x: Tensor) -> Tensor:
    return x.t()


def flatten_all(x: Tensor) -> Tensor:
    return torch.flatten(x)


def view_heads(x: Tensor) -> Tensor:
    return x.view(x.size(0), 2, 4)


def reshape_heads(x: Tensor) -> Tensor:
    return x.reshape(-1, 4, 4)


def transpose_features(x: Tensor) -> Tensor:
    return torch.transpose(x, 0, 1)


def channel_shuffle(x: Tensor) -> Tensor:
    return F.channel_shuffle(x, 4)


def channel_shuffle_by_hand(x: Tensor) -> Tensor:
    n, c, h, w = x.size()
    return x.view(n, 4, c // 4, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def squeeze(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True).squeeze()


def squeeze_dim(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, [1, 4]).squeeze(2)


def squeeze_function(x: Tensor) -> Tensor:
    return torch.squeeze(x.mean(1, keepdim=True), 1)


def squeeze_in_place(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True).squeeze_(1)


def unsqueeze(x: Tensor) -> Tensor:
    return x.unsqueeze(1)


def unsqueeze_function(x: Tensor) -> Tensor:
    return torch.unsqueeze(x, -1)


def unsqueeze_in_place(x: Tensor) -> Tensor:
    return x.unsqueeze_(0)


def chunk(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([b, a], 1)


def chunk_function(x: Tensor) -> Tensor:
    a, b = torch.chunk(x, 2, dim=1)
    return a + b


def chunk_first(x: Tensor) -> Tensor:
    first, _ = x.chunk(2, 1)
    return first


def split(x: Tensor) -> Tensor:
    a, b = x.split(4, 1)
    return a * b


def split_function(x: Tensor) -> Tensor:
    a, b = torch.split(x, 4, dim=1)
    return torch.cat([b, a], 1)


def split_sizes(x: Tensor) -> Tensor:
    a, b = x.split([2, 6], 1)
    return torch.cat([b, a], 1)


def split_sizes_function(x: Tensor) -> Tensor:
    a, b = torch.split(x, [2, 6], 1)
    return torch.cat([b, a], 1)


def tensor_split_indices(x: Tensor) -> Tensor:
    a, b = torch.tensor_split(x, indices=[1], dim=1)
    return torch.cat([b, a], 1)


def tensor_split_three(x: Tensor) -> Tensor:
    a, _, c = x.tensor_split([1, 6], 1)
    return torch.cat([c, a], 1)


def tensor_split_sections(x: Tensor) -> Tensor:
    a, b, c = torch.tensor_split(x, 3, 1)
    return torch.cat([c, a, b], 1)


def split_with_sizes(x: Tensor) -> Tensor:
    a, b = x.split_with_sizes([2, 6], 1)
    return torch.cat([b, a], 1)


def slice_channels(x: Tensor) -> Tensor:
    return x[:, 2:6]


def slice_steps(x: Tensor) -> Tensor:
    return x[:, :, ::2, 1:]


def select(x: Tensor) -> Tensor:
    return x.select(1, 3)


def index(x: Tensor) -> Tensor:
    return x[:, -1]


def contiguous(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def contiguous_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def clone(x: Tensor) -> Tensor:
    return x.clone()


spellings(
    "aten::flatten.using_ints", "aten::flatten", module=nn.Flatten(), function=flatten, method=flatten_method
)
spellings(
    "aten::reshape",
    "aten::reshape",
    view=view,
    view_fixed=view_fixed,
    view_behind_pooling=view_behind_pooling,
)
spellings("aten::reshape", "aten::reshape", method=reshape, function=reshape_function)
spellings("aten::permute", "aten::permute", method=permute, function=permute_function)
spellings(
    "aten::transpose.int",
    "aten::transpose",
    method=transpose,
    function=transpose_function,
    method_in_place=transpose_in_place,
)
spellings(
    "aten::channel_shuffle",
    "aten::channel_shuffle",
    module=nn.ChannelShuffle(2),
    function=channel_shuffle,
    reshapes=channel_shuffle_by_hand,
)
spellings("aten::t", "aten::t", "linear", method=t)
spellings("aten::flatten.using_ints", "aten::flatten", "linear", function=flatten_all)
spellings("aten::reshape", "aten::reshape", "linear", heads=reshape_heads, view_heads=view_heads)
spellings("aten::transpose.int", "aten::transpose", "linear", function=transpose_features)
spellings("aten::slice.Tensor", "aten::slice", "linear", features=slice_channels)
spellings("aten::squeeze", "aten::squeeze", bound=28, method=squeeze)
spellings(
    "aten::squeeze.dim",
    "aten::squeeze",
    bound=28,
    method=squeeze_dim,
    function=squeeze_function,
    method_in_place=squeeze_in_place,
)
spellings(
    "aten::unsqueeze",
    "aten::unsqueeze",
    method=unsqueeze,
    function=unsqueeze_function,
    method_in_place=unsqueeze_in_place,
)
spellings("aten::chunk", "aten::chunk", method=chunk, function=chunk_function, first=chunk_first)
spellings("aten::split.Tensor", "aten::split", method=split, function=split_function)
spellings(
    "aten::split_with_sizes",
    "aten::split_with_sizes",
    method=split_with_sizes,
)
spellings(
    "aten::tensor_split.indices",
    "aten::tensor_split",
    function=tensor_split_indices,
    method=tensor_split_three,
)
spellings("aten::tensor_split.sections", "aten::tensor_split", function=tensor_split_sections)
# Tracing calls it by its other name.
spellings(
    "aten::split_with_sizes", "aten::split_with_sizes", sizes=split_sizes, sizes_function=split_sizes_function
)
spellings("aten::slice.Tensor", "aten::slice", channels=slice_channels, steps=slice_steps)
spellings("aten::select.int", "aten::select", method=select, index=index)
spellings("aten::contiguous", "aten::contiguous", method=contiguous, channels_last=contiguous_channels_last)
spellings("aten::clone", "aten::clone", method=clone)

# Pixels, repetition and places


def pixel_shuffle(x: Tensor) -> Tensor:
    return F.pixel_shuffle(x, 2)


def pixel_unshuffle(x: Tensor) -> Tensor:
    return F.pixel_unshuffle(x, 3)


def squeeze_dims(x: Tensor) -> Tensor:
    return F.max_pool2d(x, [12, 1]).squeeze([1, 2])


def squeeze_dims_function(x: Tensor) -> Tensor:
    return torch.squeeze(F.max_pool2d(x, 12), [-2, -1])


def squeeze_dims_in_place(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 12).squeeze_([2, 3])


def unflatten_method(x: Tensor) -> Tensor:
    return x.unflatten(1, [2, 4])


def unflatten_function(x: Tensor) -> Tensor:
    return torch.unflatten(x, -1, [-1, 2])


def movedim_method(x: Tensor) -> Tensor:
    return x.movedim(1, -1)


def movedim_function(x: Tensor) -> Tensor:
    return torch.movedim(x, 0, 1)


def movedims_method(x: Tensor) -> Tensor:
    return x.movedim([0, 1], [1, 0])


def movedims_function(x: Tensor) -> Tensor:
    return torch.movedim(x, [-1, 0], [0, 1])


def narrow_method(x: Tensor) -> Tensor:
    return x.narrow(1, 2, 4)


def narrow_function(x: Tensor) -> Tensor:
    return torch.narrow(x, -1, 1, 5)


def expand_channels(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 12).expand(-1, -1, 5, 6)


def expand_batch(x: Tensor) -> Tensor:
    return x.unsqueeze(0).expand([3, 4, 8, 12, 12])


def expand_features(x: Tensor) -> Tensor:
    return x.unsqueeze(1).expand(-1, 3, -1)


class ExpandAs(nn.Module):
    """Expands to the shape of what is no activation."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frame", torch.zeros(4, 8, 5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 12).expand_as(self.frame)


def repeat_method(x: Tensor) -> Tensor:
    return x.repeat(2, 1, 1, 3)


def repeat_list(x: Tensor) -> Tensor:
    return x.repeat([2, 1, 2, 1, 1])


def tile_method(x: Tensor) -> Tensor:
    return x.tile([2, 1])


def tile_function(x: Tensor) -> Tensor:
    return torch.tile(x, (3,))


def repeat_interleave_method(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 1)


def repeat_interleave_function(x: Tensor) -> Tensor:
    return torch.repeat_interleave(x, 3, dim=-1)


def unbind_method(x: Tensor) -> Tensor:
    a, b = x.reshape(-1, 2, 4).unbind(1)
    return a + b


def unbind_function(x: Tensor) -> Tensor:
    a, b = torch.unbind(x.reshape(2, -1, 4))
    return torch.cat([b, a], -1)


def unfold_method(x: Tensor) -> Tensor:
    return x.unfold(1, 4, 2)


def unfold_last(x: Tensor) -> Tensor:
    return x.unfold(dimension=-1, size=3, step=1)


def flip_method(x: Tensor) -> Tensor:
    return x.flip(1)


def flip_function(x: Tensor) -> Tensor:
    return torch.flip(x, [0, -1])


def roll_method(x: Tensor) -> Tensor:
    return x.roll(3, 1)


def roll_function(x: Tensor) -> Tensor:
    return torch.roll(x, [1, -2], [0, -1])


def diagonal_method(x: Tensor) -> Tensor:
    return x.diagonal(dim1=-2, dim2=-1)


def diagonal_function(x: Tensor) -> Tensor:
    return torch.diagonal(x, 1, 0, 1)


class Places(nn.Module):
    """Places of features or channels."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.tensor([5, 0, 2, 2]))


class IndexSelectMethod(Places):
    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.places)


class IndexSelectFunction(Places):
    def forward(self, x: Tensor) -> Tensor:
        return torch.index_select(x, -1, self.places)


class Index(Places):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.places]


class IndexTwice(Places):
    def forward(self, x: Tensor) -> Tensor:
        return x[self.places[1:3], self.places[1:3]]


def fill_method(x: Tensor) -> Tensor:
    return x.masked_fill(torch.ones(12, 12, dtype=torch.bool).triu(1), 0.0)


def fill_function(x: Tensor) -> Tensor:
    return torch.masked_fill(x, torch.ones(12, 12, dtype=torch.bool).tril(-1), 0)


def fill_in_place(x: Tensor) -> Tensor:
    return x.masked_fill_(torch.arange(8).reshape(8, 1, 1) > 4, 0)


class GatherMethod(Places):
    def forward(self, x: Tensor) -> Tensor:
        return x.gather(1, self.places.view(-1, 1, 1, 1).expand(-1, 3, 12, 12))


class GatherFunction(Places):
    def forward(self, x: Tensor) -> Tensor:
        return torch.gather(x, 0, self.places.view(-1, 1, 1, 1).clamp(max=3).expand(-1, 8, 5, 12))


class GatherFeatures(Places):
    def forward(self, x: Tensor) -> Tensor:
        return torch.gather(x, 1, self.places.view(-1, 1).expand(-1, 6))


spellings("aten::pixel_shuffle", "aten::pixel_shuffle", module=nn.PixelShuffle(2), functional=pixel_shuffle)
spellings(
    "aten::pixel_unshuffle",
    "aten::pixel_unshuffle",
    module=nn.PixelUnshuffle(2),
    functional=pixel_unshuffle,
)
spellings(
    "aten::squeeze.dims",
    "aten::squeeze",
    method=squeeze_dims,
    function=squeeze_dims_function,
    method_in_place=squeeze_dims_in_place,
)
spellings("aten::expand", "aten::expand", channels=expand_channels, batch=expand_batch)
spellings("aten::expand", "aten::expand", "linear", features=expand_features)
spellings("aten::expand_as", "aten::expand_as", method=ExpandAs())
spellings("aten::repeat", "aten::repeat", method=repeat_method, list=repeat_list)
spellings(
    "aten::masked_fill.Scalar",
    "aten::masked_fill",
    method=fill_method,
    function=fill_function,
    in_place=fill_in_place,
)
spellings("aten::gather", "aten::gather", method=GatherMethod(), function=GatherFunction())
spellings("aten::gather", "aten::gather", "linear", function=GatherFeatures())
spellings("aten::index.Tensor", "aten::index", channels=Index(), twice=IndexTwice())
spellings("aten::index.Tensor", "aten::index", "linear", features=Index())
for kind in ("conv2d", "linear"):
    spellings(
        "aten::unflatten.int",
        "aten::unflatten",
        kind,
        module=nn.Unflatten(1, (2, 4)),
        method=unflatten_method,
        function=unflatten_function,
    )
    spellings("aten::movedim.int", "aten::movedim", kind, method=movedim_method, function=movedim_function)
    spellings(
        "aten::movedim.intlist", "aten::movedim", kind, method=movedims_method, function=movedims_function
    )
    spellings("aten::narrow", "aten::narrow", kind, method=narrow_method, function=narrow_function)
    spellings("aten::tile", "aten::tile", kind, method=tile_method, function=tile_function)
    spellings(
        "aten::repeat_interleave.self_int",
        "aten::repeat_interleave",
        kind,
        method=repeat_interleave_method,
        function=repeat_interleave_function,
    )
    spellings("aten::unbind.int", "aten::unbind", kind, method=unbind_method, function=unbind_function)
    spellings("aten::unfold", "aten::unfold", kind, method=unfold_method, last=unfold_last)
    spellings("aten::flip", "aten::flip", kind, method=flip_method, function=flip_function)
    spellings("aten::roll", "aten::roll", kind, method=roll_method, function=roll_function)
    spellings("aten::diagonal", "aten::diagonal", kind, method=diagonal_method, function=diagonal_function)
    spellings(
        "aten::index_select",
        "aten::index_select",
        kind,
        method=IndexSelectMethod(),
        function=IndexSelectFunction(),
    )
