// add and mul: two tensors element by element, with broadcasting and with what follows.
// activation: an elementwise function alone.
#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <c10/util/bit_cast.h>

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

namespace {

using dnnl::algorithm;
using dnnl::memory;

// A tensor of as many dimensions as `rank`, with ones in front.
at::Tensor with_rank(const at::Tensor& tensor, int64_t rank) {
  std::vector<int64_t> sizes(static_cast<size_t>(rank - tensor.dim()), 1);
  sizes.insert(sizes.end(), tensor.sizes().begin(), tensor.sizes().end());
  return tensor.view(sizes);
}

memory::desc one_number(size_t rank) {
  return {memory::dims(rank, 1), memory::data_type::f32, memory::dims(rank, 1)};
}

void set_scale(Plan& plan, dnnl::primitive_attr& attributes, int argument, double scale) {
  attributes.set_scales_mask(argument, 0);
  plan.constants.emplace_back(DNNL_ARG_ATTR_SCALES | argument, constant_memory(static_cast<float>(scale)));
}

class Binary : public Kernel {
 public:
  explicit Binary(Spec given) : Kernel(std::move(given)) {}

 protected:
  void accept(Inputs& inputs) const override {
    require_bytes(inputs[0], name());
    require_bytes(inputs[1], name());
    const auto sizes = at::infer_size(inputs[0].sizes(), inputs[1].sizes());  // raises where they do not fit
    const auto rank = static_cast<int64_t>(sizes.size());
    // The first operand has to have the sizes of the result: oneDNN repeats the second one only.
    if (inputs[0].sizes() != c10::IntArrayRef(sizes) && inputs[1].sizes() != c10::IntArrayRef(sizes)) {
      inputs[0] = inputs[0].expand(sizes).contiguous();
    }
    const bool last = rank > 2 && !(inputs[0].is_contiguous() && inputs[1].is_contiguous());
    for (auto& input : inputs) {
      input = in_layout(with_rank(input.dim() == rank ? input : input.contiguous(), rank),
                        last ? Layout::ChannelsLast : Layout::Contiguous);
    }
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    const Tail tail(spec_, "none");
    plan->dtype = tail.dtype;
    plan->sizes = at::infer_size(inputs[0].sizes(), inputs[1].sizes());
    plan->layout =
        inputs[0].is_contiguous() && inputs[1].is_contiguous() ? Layout::Contiguous : Layout::ChannelsLast;
    if (c10::multiply_integers(plan->sizes) == 0) {
      return plan;
    }
    const bool swapped = inputs[0].sizes() != c10::IntArrayRef(plan->sizes);
    plan->output.second = desc_of(plan->sizes, plan->dtype, plan->layout);
    add_primitive(*plan, tail, inputs, swapped);
    return plan;
  }

  // Puts the linear step and the rest of the tail behind what the primitive computes.
  static dnnl::post_ops followed_by(dnnl::post_ops ops, const Tail& tail, double factor, double shift) {
    if (factor != 1 || shift != 0) {
      ops.append_eltwise(algorithm::eltwise_linear, static_cast<float>(factor), static_cast<float>(shift));
    }
    append_all(ops, tail.ops);
    return ops;
  }

  virtual void add_primitive(Plan& plan, const Tail& tail, Tensors inputs, bool swapped) const = 0;

  // What oneDNN has no quick kernel for: broadcasts of other kinds, and products of two zero points.
  void compute_in_float(Plan& plan, at::Tensor (*combine)(const at::Tensor&, const at::Tensor&)) const {
    Spec spec = spec_;
    spec.set("kernel", "activation");
    spec.set("input", QParams{1, 0});
    plan.implementation = "aten:float";
    plan.compute = [left = *spec_.qparams("input"), right = *spec_.qparams("other"), combine,
                    finish_up = make_kernel(spec)](Tensors given) {
      auto real = [](const at::Tensor& integers, QParams params) {
        return (integers.to(at::kFloat) - static_cast<float>(params.zero_point)) *
               static_cast<float>(params.scale);
      };
      return finish_up->run({combine(real(given[0], left), real(given[1], right))});
    };
  }

 private:
  static void append_all(dnnl::post_ops& ops, const dnnl::post_ops& more) {
    for (int i = 0; i < more.len(); ++i) {
      algorithm kind;
      float alpha, beta;
      more.get_params_eltwise(i, kind, alpha, beta);
      ops.append_eltwise(kind, alpha, beta);
    }
  }
};

class Add final : public Binary {
 public:
  using Binary::Binary;

 protected:
  void add_primitive(Plan& plan, const Tail& tail, Tensors inputs, bool swapped) const override {
    if (inputs[0].sizes() != inputs[1].sizes()) {
      compute_in_float(plan, [](const at::Tensor& a, const at::Tensor& b) { return at::add(a, b); });
      return;
    }
    const QParams left = *spec_.qparams("input");
    const QParams right = *spec_.qparams("other");
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    set_scale(plan, attributes, swapped ? DNNL_ARG_SRC_1 : DNNL_ARG_SRC_0, left.scale * tail.factor);
    set_scale(plan, attributes, swapped ? DNNL_ARG_SRC_0 : DNNL_ARG_SRC_1, right.scale * tail.factor);
    const double shift = tail.shift - (left.scale * static_cast<double>(left.zero_point) +
                                       right.scale * static_cast<double>(right.zero_point)) *
                                          tail.factor;
    attributes.set_post_ops(followed_by({}, tail, 1, shift));
    plan.inputs.emplace_back(swapped ? DNNL_ARG_SRC_1 : DNNL_ARG_SRC_0, desc_of(inputs[0]));
    plan.inputs.emplace_back(swapped ? DNNL_ARG_SRC_0 : DNNL_ARG_SRC_1, desc_of(inputs[1]));
    finish<dnnl::binary>(plan, {engine(), algorithm::binary_add, plan.inputs[swapped ? 1 : 0].second,
                                plan.inputs[swapped ? 0 : 1].second, plan.output.second, attributes});
  }
};

JITQUANT_KERNEL(Add, "add");

// Integers times one factor for each channel, channels last. oneDNN 3.2 has only its reference kernel for
// 8-bit operands of which one is broadcast, five hundred times slower than this.
__attribute__((optimize("O3"), target_clones("arch=skylake-avx512", "arch=haswell", "default"))) void
scale_channels(const uint8_t* __restrict input, const float* __restrict factors, uint8_t* __restrict output,
               int64_t pixels, int64_t channels, float zero_point, float shift) {
  // Adding it leaves no room for a fraction: the sum is rounded half to even, and its last bits are the
  // integer.
  constexpr float kRounder = 12582912.0F;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const uint8_t* __restrict from = input + pixel * channels;
    uint8_t* __restrict to = output + pixel * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const float value = (static_cast<float>(from[c]) - zero_point) * factors[c] + shift;
      const float bounded = std::min(std::max(value, 0.0F), 255.0F);
      to[c] = static_cast<uint8_t>(c10::bit_cast<uint32_t>(bounded + kRounder));
    }
  }
}

class Mul final : public Binary {
 public:
  using Binary::Binary;

 protected:
  void add_primitive(Plan& plan, const Tail& tail, Tensors inputs, bool swapped) const override {
    const QParams left = *spec_.qparams("input");
    const QParams right = *spec_.qparams("other");
    const size_t wide = swapped ? 1 : 0;  // the operand of the result's sizes
    const auto gate = inputs[1 - wide].sizes();
    const bool same_sizes = gate == inputs[wide].sizes();
    const bool for_each_channel = gate.size() > 2 && gate[1] == plan.sizes[1] && gate[0] == plan.sizes[0] &&
                                  c10::multiply_integers(gate.slice(2)) == 1;
    if (for_each_channel && !same_sizes && plan.dtype == at::kByte && tail.ops.len() == 0 &&
        plan.layout == Layout::ChannelsLast) {
      scale_by_gate(plan, left, right, tail, wide);
    } else if (same_sizes && left.zero_point == 0 && right.zero_point == 0) {
      dnnl::primitive_attr attributes;
      attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
      set_scale(plan, attributes, DNNL_ARG_SRC_0, left.scale * right.scale * tail.factor);
      attributes.set_post_ops(followed_by({}, tail, 1, tail.shift));
      plan.inputs.emplace_back(DNNL_ARG_SRC_0, desc_of(inputs[0]));
      plan.inputs.emplace_back(DNNL_ARG_SRC_1, desc_of(inputs[1]));
      finish<dnnl::binary>(plan, {engine(), algorithm::binary_mul, plan.inputs[0].second,
                                  plan.inputs[1].second, plan.output.second, attributes});
    } else {
      compute_in_float(plan, at::mul);
    }
  }

 private:
  // A gate for each channel, as squeeze-and-excite has.
  static void scale_by_gate(Plan& plan, QParams left, QParams right, const Tail& tail, size_t wide) {
    const QParams values = wide == 0 ? left : right;
    const QParams gates = wide == 0 ? right : left;
    const double factor = left.scale * right.scale * tail.factor;
    plan.implementation = "loop:scale_channels";
    plan.compute = [=, sizes = plan.sizes, strides = strides_of(plan.sizes, plan.layout),
                    shift = tail.shift](Tensors given) {
      const at::Tensor result = at::detail::empty_strided_cpu(sizes, strides, at::kByte);
      const at::Tensor factors =
          (given[1 - wide].contiguous().flatten(1).to(at::kFloat) - static_cast<float>(gates.zero_point)) *
          factor;
      const int64_t channels = sizes[1];
      const int64_t pixels = c10::multiply_integers(sizes) / sizes[0] / channels;
      const auto* input = given[wide].const_data_ptr<uint8_t>();
      auto* output = result.data_ptr<uint8_t>();
      const auto* gate = factors.const_data_ptr<float>();
      at::parallel_for(0, sizes[0] * pixels, 1 << 14, [&](int64_t begin, int64_t end) {
        while (begin < end) {
          const int64_t image = begin / pixels;
          const int64_t stop = std::min(end, (image + 1) * pixels);
          scale_channels(input + begin * channels, gate + image * channels, output + begin * channels,
                         stop - begin, channels, static_cast<float>(values.zero_point),
                         static_cast<float>(shift));
          begin = stop;
        }
      });
      return result;
    };
  }
};

JITQUANT_KERNEL(Mul, "mul");

class ElementwiseActivation final : public Binary {
 public:
  using Binary::Binary;

 protected:
  // Integers, or floats with no scale of their own.
  void accept(Inputs& inputs) const override {
    inputs[0] = in_layout(inputs[0], inputs[0].is_contiguous() ? Layout::Contiguous : Layout::ChannelsLast);
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    const Tail tail(spec_, "none");
    plan->dtype = tail.dtype;
    plan->sizes = inputs[0].sizes().vec();
    plan->layout = inputs[0].is_contiguous() ? Layout::Contiguous : Layout::ChannelsLast;
    if (inputs[0].numel() == 0) {
      return plan;
    }
    plan->output.second = desc_of(plan->sizes, plan->dtype, plan->layout);
    add_primitive(*plan, tail, inputs, false);
    return plan;
  }

  // input + (-zero point), scaled, then the function.
  void add_primitive(Plan& plan, const Tail& tail, Tensors inputs, bool /*swapped*/) const override {
    const QParams input = *spec_.qparams("input");
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    attributes.set_post_ops(followed_by({}, tail, input.scale * tail.factor, tail.shift));
    const auto number = one_number(plan.sizes.size());
    plan.inputs.emplace_back(DNNL_ARG_SRC_0, desc_of(inputs[0]));
    plan.constants.emplace_back(
        DNNL_ARG_SRC_1, constant_memory(at::full({1}, -static_cast<float>(input.zero_point)), number));
    finish<dnnl::binary>(plan, {engine(), algorithm::binary_add, plan.inputs[0].second, number,
                                plan.output.second, attributes});
  }
};

JITQUANT_KERNEL(ElementwiseActivation, "activation");

}  // namespace

}  // namespace jitquant::runtime
