// add and mul: two tensors element by element, with broadcasting and with what follows.
// activation: an elementwise function alone.
#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>

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

class Mul final : public Binary {
 public:
  using Binary::Binary;

 protected:
  void add_primitive(Plan& plan, const Tail& tail, Tensors inputs, bool swapped) const override {
    const QParams left = *spec_.qparams("input");
    const QParams right = *spec_.qparams("other");
    const double factor = left.scale * right.scale * tail.factor;
    const size_t full = swapped ? 1 : 0;  // the operand of the result's sizes
    const QParams& wide = swapped ? right : left;
    const QParams& narrow = swapped ? left : right;
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (left.zero_point == 0 && right.zero_point == 0) {
      set_scale(plan, attributes, DNNL_ARG_SRC_0, factor);
      attributes.set_post_ops(followed_by({}, tail, 1, tail.shift));
      plan.inputs.emplace_back(swapped ? DNNL_ARG_SRC_1 : DNNL_ARG_SRC_0, desc_of(inputs[0]));
      plan.inputs.emplace_back(swapped ? DNNL_ARG_SRC_0 : DNNL_ARG_SRC_1, desc_of(inputs[1]));
      finish<dnnl::binary>(plan, {engine(), algorithm::binary_mul, plan.inputs[full].second,
                                  plan.inputs[1 - full].second, plan.output.second, attributes});
      return;
    }
    if (narrow.zero_point != 0) {
      compute_in_float(plan, left, right, tail);
      return;
    }
    // (wide - zero point) * narrow * factor + shift
    const auto number = one_number(plan.sizes.size());
    dnnl::post_ops ops;
    ops.append_binary(algorithm::binary_mul, desc_of(inputs[1 - full]));
    attributes.set_post_ops(followed_by(ops, tail, factor, tail.shift));
    const int second = DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1;
    plan.inputs.emplace_back(swapped ? second : DNNL_ARG_SRC_0, desc_of(inputs[0]));
    plan.inputs.emplace_back(swapped ? DNNL_ARG_SRC_0 : second, desc_of(inputs[1]));
    plan.constants.emplace_back(DNNL_ARG_SRC_1,
                                constant_memory(at::full({1}, -static_cast<float>(wide.zero_point)), number));
    finish<dnnl::binary>(plan, {engine(), algorithm::binary_add, plan.inputs[full].second, number,
                                plan.output.second, attributes});
  }

 private:
  void compute_in_float(Plan& plan, QParams left, QParams right, const Tail& tail) const;
};

// Both operands have a zero point: rare, since gates have none, and no chain of post-ops says it.
void Mul::compute_in_float(Plan& plan, QParams left, QParams right, const Tail& tail) const {
  Spec spec = spec_;
  spec.set("kernel", "activation");
  spec.set("input", QParams{1, 0});
  const auto finish_up = make_kernel(spec);
  (void)tail;
  plan.compute = [left, right, finish_up](Tensors given) {
    auto real = [](const at::Tensor& integers, QParams params) {
      return (integers.to(at::kFloat) - static_cast<float>(params.zero_point)) *
             static_cast<float>(params.scale);
    };
    return finish_up->run({real(given[0], left) * real(given[1], right)});
  };
}

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
