// add and mul: two tensors element by element, with broadcasting and with what follows.
#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

namespace {

// How the smaller operand is repeated: in the order of memory, the larger one is [outer, repeated, inner] and
// the smaller one [outer, 1, inner].
struct Repetition {
  int64_t outer = 1;
  int64_t repeated = 1;
  int64_t inner = 1;
};

// Nothing where it is repeated along more than one stretch of dimensions.
std::optional<Repetition> repetition(c10::IntArrayRef large, c10::IntArrayRef small, Layout layout) {
  Repetition found;
  enum { Outer, Repeated, Inner } part = Outer;
  const size_t rank = large.size();
  for (size_t i = 0; i < rank; ++i) {
    const size_t axis = layout == Layout::Contiguous || i == 0 ? i : i + 1 == rank ? 1 : i + 1;
    if (large[axis] == 1) {
      continue;
    }
    const bool repeats = small[axis] == 1;
    if (repeats) {
      if (part == Inner) {
        return std::nullopt;
      }
      part = Repeated;
      found.repeated *= large[axis];
    } else {
      part = part == Outer ? Outer : Inner;
      (part == Outer ? found.outer : found.inner) *= large[axis];
    }
  }
  if (found.repeated == 1) {  // two of one size
    std::swap(found.outer, found.inner);
  }
  return found;
}

// The result of large a and small b is a * (k[0] * b + k[1]) + (k[2] * b + k[3]), within bounds.
struct Formula {
  float k[4];
  Bounds bounds;
};

template <typename Out>
void compute(const uint8_t* large, const uint8_t* small, Out* out, const Repetition& shape,
             const Formula& formula) {
  const Loops& use = loops();
  auto affine = [&] {
    if constexpr (std::is_same_v<Out, float>) {
      return use.affine_to_float;
    } else {
      return use.affine;
    }
  }();
  auto bilinear = [&] {
    if constexpr (std::is_same_v<Out, float>) {
      return use.bilinear_to_float;
    } else {
      return use.bilinear;
    }
  }();
  const auto& [k, bounds] = formula;
  if (shape.repeated == 1) {
    at::parallel_for(0, shape.inner, kGrain, [&](int64_t begin, int64_t end) {
      bilinear(large + begin, small + begin, out + begin, end - begin, k, bounds);
    });
    return;
  }
  const int64_t inner = shape.inner;
  const int64_t rows = shape.outer * shape.repeated;
  at::parallel_for(0, rows, std::max<int64_t>(kGrain / inner, 1), [&](int64_t begin, int64_t end) {
    std::vector<float> factors(static_cast<size_t>(inner));
    std::vector<float> shifts(static_cast<size_t>(inner));
    while (begin < end) {
      const int64_t part = begin / shape.repeated;
      const int64_t stop = std::min(end, (part + 1) * shape.repeated);
      for (int64_t i = 0; i < inner; ++i) {
        const auto b = static_cast<float>(small[part * inner + i]);
        factors[static_cast<size_t>(i)] = k[0] * b + k[1];
        shifts[static_cast<size_t>(i)] = k[2] * b + k[3];
      }
      affine(large + begin * inner, out + begin * inner, stop - begin, inner, factors.data(), shifts.data(),
             bounds);
      begin = stop;
    }
  });
}

class Binary : public Kernel {
 public:
  explicit Binary(Spec given) : Kernel(std::move(given)), tail_(linear_tail(spec_)) {
    if (!tail_) {
      next_ = activation_behind(spec_);
      tail_ = linear_tail(Spec());
    }
  }

 protected:
  void accept(Inputs& inputs) const override {
    require_bytes(inputs[0], name());
    require_bytes(inputs[1], name());
    // Raises where they do not fit.
    const auto sizes = at::infer_size_dimvector(inputs[0].sizes(), inputs[1].sizes());
    const auto rank = static_cast<int64_t>(sizes.size());
    if (inputs[0].sizes() != c10::IntArrayRef(sizes) && inputs[1].sizes() != c10::IntArrayRef(sizes)) {
      inputs[0] = inputs[0].expand(sizes).contiguous();
    }
    for (auto& input : inputs) {
      input = with_rank(input, rank);
    }
    const Layout layout = layout_of(inputs);
    for (auto& input : inputs) {
      input = in_layout(input, layout);
    }
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    auto plan = std::make_shared<Plan>();
    plan->sizes = at::infer_size(inputs[0].sizes(), inputs[1].sizes());
    plan->layout = layout_of(inputs);
    plan->dtype = spec_.has("output") ? at::kByte : at::kFloat;
    if (c10::multiply_integers(plan->sizes) == 0) {
      return plan;
    }
    const bool swapped = inputs[0].sizes() != c10::IntArrayRef(plan->sizes);
    const auto& large = inputs[swapped ? 1 : 0].sizes();
    const auto found = repetition(large, inputs[swapped ? 0 : 1].sizes(), plan->layout);
    const Repetition shape = found ? *found : *repetition(large, large, plan->layout);
    const Formula formula = make_formula(*spec_.qparams(swapped ? "other" : "input"),
                                         *spec_.qparams(swapped ? "input" : "other"), *tail_);
    auto small_of = [swapped, found = found.has_value(), layout = plan->layout](Tensors given) {
      const at::Tensor& small = given[swapped ? 0 : 1];
      return found ? small : in_layout(small.expand(given[swapped ? 1 : 0].sizes()), layout);
    };
    plan->implementation = loops().name;
    plan->loop = [=, to_float = plan->dtype == at::kFloat || next_](Tensors given, void* out) {
      const at::Tensor small = small_of(given);
      const auto* large = given[swapped ? 1 : 0].const_data_ptr<uint8_t>();
      if (to_float) {
        compute(large, small.const_data_ptr<uint8_t>(), static_cast<float*>(out), shape, formula);
      } else {
        compute(large, small.const_data_ptr<uint8_t>(), static_cast<uint8_t*>(out), shape, formula);
      }
    };
    if (next_) {
      const bool last = plan->layout == Layout::ChannelsLast;
      plan->compute = [loop = plan->loop, next = next_, swapped, last](Tensors given) {
        const at::Tensor& large = given[swapped ? 1 : 0];
        // In the layout of the larger one, which strides say where size-one dimensions leave it open.
        at::Tensor numbers = at::empty_strided(
            large.sizes(), strides_of(large.sizes(), last ? Layout::ChannelsLast : Layout::Contiguous),
            at::kFloat);
        loop(given, numbers.data_ptr());
        return next->run({numbers});
      };
    }
    return plan;
  }

  virtual Formula make_formula(QParams large, QParams small, const LinearTail& tail) const = 0;

 private:
  std::optional<LinearTail> tail_;
  c10::intrusive_ptr<Kernel> next_;
};

class Add final : public Binary {
 public:
  using Binary::Binary;

 protected:
  Formula make_formula(QParams large, QParams small, const LinearTail& tail) const override {
    const double shift = tail.shift - tail.factor * (large.scale * static_cast<double>(large.zero_point) +
                                                     small.scale * static_cast<double>(small.zero_point));
    return {{0, static_cast<float>(large.scale * tail.factor), static_cast<float>(small.scale * tail.factor),
             static_cast<float>(shift)},
            tail.bounds};
  }
};

JITQUANT_KERNEL(Add, "add");

class Mul final : public Binary {
 public:
  using Binary::Binary;

 protected:
  Formula make_formula(QParams large, QParams small, const LinearTail& tail) const override {
    const double factor = large.scale * small.scale * tail.factor;
    const auto from_large = static_cast<double>(large.zero_point);
    const auto from_small = static_cast<double>(small.zero_point);
    return {{static_cast<float>(factor), static_cast<float>(-factor * from_small),
             static_cast<float>(-factor * from_large),
             static_cast<float>(tail.shift + factor * from_large * from_small)},
            tail.bounds};
  }
};

JITQUANT_KERNEL(Mul, "mul");

}  // namespace

}  // namespace jitquant::runtime
