#include "csrc/runtime/onednn.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <ATen/ATen.h>

namespace jitquant::runtime {

namespace {

dnnl::memory owned(const dnnl::memory::desc& desc, const void* data) {
  dnnl::memory memory(desc, engine());
  std::memcpy(memory.get_data_handle(), data, desc.get_size());
  return memory;
}

// Reorders a tensor into the layout that a primitive asked for.
dnnl::memory packed(const at::Tensor& tensor, const dnnl::memory::desc& asked) {
  const at::Tensor plain = tensor.contiguous();
  dnnl::memory from(desc_of(plain), engine(), const_cast<void*>(plain.const_data_ptr()));
  dnnl::memory to(asked, engine());
  dnnl::stream here(engine());
  dnnl::reorder(from, to).execute(here, from, to);
  here.wait();
  return to;
}

}  // namespace

void check(dnnl_status_t status, const char* what) {
  TORCH_CHECK(status == dnnl_success, "jitquant: oneDNN could not ", what, " (status ",
              static_cast<int>(status), ")");
}

dnnl::memory::data_type data_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::kByte:
      return dnnl::memory::data_type::u8;
    case at::kChar:
      return dnnl::memory::data_type::s8;
    case at::kInt:
      return dnnl::memory::data_type::s32;
    case at::kBFloat16:
      return dnnl::memory::data_type::bf16;
    default:
      return dnnl::memory::data_type::f32;
  }
}

std::vector<int64_t> strides_of(c10::IntArrayRef sizes, Layout layout) {
  std::vector<int64_t> strides(sizes.size());
  int64_t next = 1;
  const bool channels_last = layout == Layout::ChannelsLast && sizes.size() > 2;
  if (channels_last) {
    strides[1] = 1;
    next = std::max<int64_t>(sizes[1], 1);
  }
  for (size_t i = sizes.size(); i-- > (channels_last ? 2 : 0);) {
    strides[i] = next;
    next *= std::max<int64_t>(sizes[i], 1);
  }
  if (channels_last) {
    strides[0] = next;
  }
  return strides;
}

// oneDNN has no tensors without dimensions.
dnnl::memory::desc desc_of(c10::IntArrayRef sizes, at::ScalarType dtype, Layout layout) {
  if (sizes.empty()) {
    return desc_of(c10::IntArrayRef({1}), dtype, Layout::Contiguous);
  }
  return {sizes.vec(), data_type(dtype), strides_of(sizes, layout)};
}

dnnl::memory::desc desc_of(const at::Tensor& tensor) {
  if (tensor.dim() == 0) {
    return desc_of(tensor.view({1}));
  }
  return {tensor.sizes().vec(), data_type(tensor.scalar_type()), tensor.strides().vec()};
}

dnnl::memory::desc any_desc(c10::IntArrayRef sizes, at::ScalarType dtype) {
  return {sizes.vec(), data_type(dtype), dnnl::memory::format_tag::any};
}

at::Tensor in_layout(const at::Tensor& tensor, Layout layout) {
  if (layout == Layout::Contiguous || tensor.dim() < 3) {
    return tensor.contiguous();
  }
  if (tensor.dim() == 4) {
    return tensor.contiguous(at::MemoryFormat::ChannelsLast);
  }
  if (tensor.dim() == 5) {
    return tensor.contiguous(at::MemoryFormat::ChannelsLast3d);
  }
  return tensor.transpose(1, 2).contiguous().transpose(1, 2);
}

Layout layout_of(c10::ArrayRef<at::Tensor> tensors) {
  for (const auto& tensor : tensors) {
    if (tensor.dim() > 2 && !tensor.is_contiguous()) {
      return Layout::ChannelsLast;
    }
  }
  return Layout::Contiguous;
}

dnnl::memory constant_memory(float value) {
  return owned({{1}, dnnl::memory::data_type::f32, dnnl::memory::dims{1}}, &value);
}

dnnl::memory constant_memory(int32_t value) {
  return owned({{1}, dnnl::memory::data_type::s32, dnnl::memory::dims{1}}, &value);
}

dnnl::memory constant_memory(const at::Tensor& tensor, const dnnl::memory::desc& desc) {
  return owned(desc, tensor.contiguous().const_data_ptr());
}

dnnl::memory PackedWeight::in(const dnnl::memory::desc& asked, const at::Tensor& weight) {
  for (const auto& known : known_) {
    if (known.get_desc() == asked) {
      return known;
    }
  }
  known_.push_back(packed(weight, asked));
  return known_.back();
}

std::pair<double, double> integer_bounds(at::ScalarType dtype) {
  return dtype == at::kByte ? std::pair(0.0, 255.0) : std::pair(-128.0, 127.0);
}

void append_activation(dnnl::post_ops& ops, const Activation& activation) {
  using dnnl::algorithm;
  const auto& name = activation.name;
  auto argument = [&](size_t i) { return static_cast<float>(activation.arguments.at(i)); };
  if (name == "clip" && activation.arguments.at(0) == 0 && std::isinf(activation.arguments.at(1))) {
    ops.append_eltwise(algorithm::eltwise_relu, 0, 0);
  } else if (name == "clip") {
    ops.append_eltwise(algorithm::eltwise_clip, argument(0), argument(1));
  } else if (name == "hardswish") {
    ops.append_eltwise(algorithm::eltwise_hardswish, 1.0F / 6, 0.5F);
  } else if (name == "hardsigmoid") {
    ops.append_eltwise(algorithm::eltwise_hardsigmoid, 1.0F / 6, 0.5F);
  } else if (name == "swish") {
    ops.append_eltwise(algorithm::eltwise_swish, 1, 0);
  } else if (name == "sigmoid") {
    ops.append_eltwise(algorithm::eltwise_logistic, 0, 0);
  } else if (name == "tanh") {
    ops.append_eltwise(algorithm::eltwise_tanh, 0, 0);
  } else if (name == "gelu") {
    ops.append_eltwise(algorithm::eltwise_gelu_erf, 0, 0);
  } else if (name == "gelu_tanh") {
    ops.append_eltwise(algorithm::eltwise_gelu_tanh, 0, 0);
  } else if (name == "leaky_relu") {
    ops.append_eltwise(algorithm::eltwise_relu, argument(0), 0);
  } else if (name == "elu") {
    ops.append_eltwise(algorithm::eltwise_elu, argument(0), 0);
  } else {
    TORCH_CHECK(name.empty(), "jitquant: no kernel has an activation '", name,
                "'; load the op library of the version that made the file");
  }
}

dnnl::post_ops linear_then(double factor, double shift, const dnnl::post_ops& ops) {
  if (factor == 1 && shift == 0) {
    return ops;
  }
  dnnl::post_ops result;
  result.append_eltwise(dnnl::algorithm::eltwise_linear, static_cast<float>(factor),
                        static_cast<float>(shift));
  for (int i = 0; i < ops.len(); ++i) {
    dnnl::algorithm kind;
    float alpha, beta;
    ops.get_params_eltwise(i, kind, alpha, beta);
    result.append_eltwise(kind, alpha, beta);
  }
  return result;
}

uint8_t rounded_to(const QParams& params, double number) {
  const double rounded = std::nearbyint(number / params.scale + static_cast<double>(params.zero_point));
  return static_cast<uint8_t>(std::min(std::max(rounded, 0.0), 255.0));
}

double activated(const Activation& activation, double x) {
  const auto& name = activation.name;
  auto argument = [&](size_t i) { return activation.arguments.at(i); };
  auto clipped = [](double y, double low, double high) { return std::min(std::max(y, low), high); };
  if (name.empty()) {
    return x;
  }
  if (name == "linear") {
    return argument(0) * x + argument(1);
  }
  if (name == "clip") {
    return clipped(x, argument(0), argument(1));
  }
  if (name == "hardswish") {
    return x * clipped(x / 6 + 0.5, 0, 1);
  }
  if (name == "hardsigmoid") {
    return clipped(x / 6 + 0.5, 0, 1);
  }
  if (name == "swish") {
    return x / (1 + std::exp(-x));
  }
  if (name == "sigmoid") {
    return 1 / (1 + std::exp(-x));
  }
  if (name == "tanh") {
    return std::tanh(x);
  }
  if (name == "gelu") {
    return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
  }
  if (name == "gelu_tanh") {
    return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  if (name == "leaky_relu") {
    return x > 0 ? x : x * argument(0);
  }
  if (name == "elu") {
    return x > 0 ? x : argument(0) * std::expm1(x);
  }
  TORCH_CHECK(false, "jitquant: no kernel has an activation '", name,
              "'; load the op library of the version that made the file");
}

std::optional<LinearTail> linear_tail(const Spec& spec) {
  const Activation activation = spec.activation();
  const bool linear = activation.name == "linear";
  const bool clips = activation.name == "clip";
  if (!activation.name.empty() && !linear && !clips) {
    return std::nullopt;
  }
  const auto output = spec.qparams("output");
  const double unit = output ? output->scale : 1;
  const double factor = (linear ? activation.arguments.at(0) : 1) / unit;
  const double shift = (linear ? activation.arguments.at(1) : 0) / unit +
                       (output ? static_cast<double>(output->zero_point) : 0);
  const double infinity = std::numeric_limits<double>::infinity();
  double low = output ? 0 : -infinity;
  double high = output ? 255 : infinity;
  if (clips) {
    low = std::max(low, activation.arguments.at(0) * factor + shift);
    high = std::min(high, activation.arguments.at(1) * factor + shift);
    low = std::min(low, high);  // where all of the clip lies outside of the integers
    if (output) {
      low = std::min(std::max(low, 0.0), 255.0);
      high = std::min(std::max(high, 0.0), 255.0);
    }
  }
  return LinearTail{factor, shift, {static_cast<float>(low), static_cast<float>(high)}};
}

c10::intrusive_ptr<Kernel> activation_behind(const Spec& spec) {
  Spec next;
  next.set("kernel", std::string("activation"));
  next.set("input", QParams{1, 0});
  for (const char* word : {"output", "activation"}) {
    if (spec.has(word)) {
      next.set(word, spec.word(word));
    }
  }
  return make_kernel(std::move(next));
}

Tail::Tail(const Spec& spec, const char* other_name) {
  const auto output = spec.qparams("output");
  const auto other = spec.qparams(other_name);
  const Activation activation = spec.activation();
  const bool clips = activation.name == "clip" && output;
  const bool linear = clips || activation.name.empty() || activation.name == "linear";
  dtype = !output ? at::kFloat : spec.has("signed_output") ? at::kChar : at::kByte;
  if (linear) {
    const bool given = activation.name == "linear";
    const double unit = output ? output->scale : 1.0;
    factor = (given ? activation.arguments.at(0) : 1.0) / unit;
    shift = (given ? activation.arguments.at(1) : 0.0) / unit;
    shift += output ? static_cast<double>(output->zero_point) : 0.0;
  }
  if (spec.has("sum")) {
    // The other operand lies in the output's memory, so it has the output's dtype.
    const double scale = other ? other->scale : 1.0;
    ops.append_sum(static_cast<float>(scale * factor), 0, data_type(dtype));
    shift -= other ? scale * factor * static_cast<double>(other->zero_point) : 0;
  }
  if (!linear) {
    append_activation(ops, activation);
    if (output) {
      ops.append_eltwise(dnnl::algorithm::eltwise_linear, static_cast<float>(1 / output->scale),
                         static_cast<float>(output->zero_point));
    }
  }
  if (clips) {
    const auto [lowest, highest] = integer_bounds(dtype);
    const double low = activation.arguments.at(0) * factor + static_cast<double>(output->zero_point);
    const double high = activation.arguments.at(1) * factor + static_cast<double>(output->zero_point);
    // Rounding and saturation do the rest.
    if (low > lowest + 0.5 || high < highest - 0.5) {
      ops.append_eltwise(dnnl::algorithm::eltwise_clip, static_cast<float>(std::max(low, lowest)),
                         static_cast<float>(std::min(high, highest)));
    }
  }
}

void require_bytes(const at::Tensor& input, const std::string& kernel) {
  TORCH_CHECK(input.scalar_type() == at::kByte, "jitquant::", kernel, ": the input is ", input.scalar_type(),
              " and has to be uint8; let jitquant::quantize make it");
}

void require_bytes_or_float(const at::Tensor& input, const std::string& kernel) {
  TORCH_CHECK(input.scalar_type() == at::kByte || input.scalar_type() == at::kFloat, "jitquant::", kernel,
              ": the input is ", input.scalar_type(), " and has to be uint8 or float32; convert it first");
}

at::Tensor numbers_of(const at::Tensor& integers, const QParams& params) {
  return (integers.to(at::kFloat) - static_cast<float>(params.zero_point)) * static_cast<float>(params.scale);
}

at::Tensor with_rank(const at::Tensor& tensor, int64_t rank) {
  at::Tensor result = tensor;
  while (result.dim() < rank) {
    result = result.unsqueeze(0);
  }
  return result;
}

dnnl::primitive_attr new_attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

void add_zero_point(Plan& plan, dnnl::primitive_attr& attributes, int argument, int64_t value) {
  if (value != 0) {
    attributes.set_zero_points_mask(argument, 0);
    plan.constants.emplace_back(DNNL_ARG_ATTR_ZERO_POINTS | argument,
                                constant_memory(static_cast<int32_t>(value)));
  }
}

bool has_integer_products() {
  using dnnl::cpu_isa;
  const cpu_isa isa = dnnl::get_effective_cpu_isa();
  return isa != cpu_isa::sse41 && isa != cpu_isa::avx && isa != cpu_isa::avx2 && isa != cpu_isa::avx512_core;
}

void require_integer_products(const std::string& kernel) {
  TORCH_CHECK(has_integer_products(), "jitquant::", kernel,
              " needs a processor with 8-bit dot products (AVX-512 VNNI or AVX-VNNI), and this one has none: "
              "its sums would saturate; quantize the model with target=\"quantized\"");
}

}  // namespace jitquant::runtime
