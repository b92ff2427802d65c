// einsum: products of two activations along any dimensions, as one batch of products of matrices.
#include <map>

#include <ATen/ATen.h>

#include "csrc/runtime/equation.h"
#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

namespace {

using Sizes = std::map<char, int64_t>;  // of each letter

Equation equation_of(const Spec& spec) {
  auto equation = parse_equation(spec.word("equation"));
  TORCH_CHECK(equation, "jitquant::einsum_prepack: '", spec.word("equation"),
              "' is no sum over products of two operands; leave it to torch.einsum");
  return *equation;
}

c10::intrusive_ptr<Kernel> matmul_for(const Spec& spec) {
  Spec product = spec;
  product.erase("equation");
  product.set("kernel", std::string("matmul"));
  return make_kernel(std::move(product));
}

// The letters of `letters` that are, or are not, in each of the others.
std::string letters_in(const std::string& letters, std::pair<const std::string&, bool> first,
                       std::pair<const std::string&, bool> second) {
  std::string chosen;
  for (const char letter : letters) {
    if (has_letter(first.first, letter) == first.second &&
        has_letter(second.first, letter) == second.second) {
      chosen += letter;
    }
  }
  return chosen;
}

std::vector<int64_t> sizes_of(const std::string& letters, const Sizes& sizes) {
  std::vector<int64_t> found;
  for (const char letter : letters) {
    found.push_back(sizes.at(letter));
  }
  return found;
}

// Where each of the wanted letters stands.
std::vector<int64_t> places_of(const std::string& wanted, const std::string& letters) {
  std::vector<int64_t> places;
  for (const char letter : wanted) {
    places.push_back(static_cast<int64_t>(letters.find(letter)));
  }
  return places;
}

// An operand as a batch of matrices: each group of letters becomes one dimension.
struct Matrices {
  Matrices(const std::string& letters, const std::vector<std::string>& groups, const Sizes& sizes) {
    std::string wanted;
    for (const auto& group : groups) {
      wanted += group;
      flat.push_back(c10::multiply_integers(sizes_of(group, sizes)));
    }
    order = places_of(wanted, letters);
    expanded = sizes_of(wanted, sizes);
  }

  at::Tensor operator()(const at::Tensor& operand) const {
    return operand.permute(order).expand(expanded).reshape(flat);
  }

  std::vector<int64_t> order;
  std::vector<int64_t> expanded;  // a size of one fits any other
  std::vector<int64_t> flat;
};

class Einsum final : public Kernel {
 public:
  explicit Einsum(Spec given)
      : Kernel(std::move(given)),
        equation_(equation_of(spec_)),
        batch_(letters_in(equation_.left, {equation_.right, true}, {equation_.result, true})),
        rows_(letters_in(equation_.left, {equation_.right, false}, {equation_.result, true})),
        columns_(letters_in(equation_.right, {equation_.left, false}, {equation_.result, true})),
        depth_(letters_in(equation_.left, {equation_.right, true}, {equation_.result, false})),
        product_(matmul_for(spec_)) {}

  std::string implementation() const override { return product_->implementation(); }
  int64_t multiply_adds() const override { return product_->multiply_adds(); }

 protected:
  void accept(Inputs& inputs) const override {
    TORCH_CHECK(inputs.size() == 2, "jitquant::", name(), ": ", inputs.size(),
                " tensors are given and the kernel multiplies two; quantize the model again");
    for (const size_t i : {0, 1}) {
      const auto& letters = i == 0 ? equation_.left : equation_.right;
      require_bytes(inputs[i], name());
      TORCH_CHECK(inputs[i].dim() == static_cast<int64_t>(letters.size()), "jitquant::", name(),
                  ": an operand has ", inputs[i].dim(), " dimensions and is '", letters,
                  "' in the equation; give it what the model was made for");
    }
  }

  std::shared_ptr<Plan> make_plan(Tensors inputs) override {
    const Sizes sizes = common_sizes(inputs);
    const Matrices left(equation_.left, {batch_, rows_, depth_}, sizes);
    const Matrices right(equation_.right, {batch_, depth_, columns_}, sizes);
    const std::string letters = batch_ + rows_ + columns_;
    auto plan = std::make_shared<Plan>();
    plan->compute = [this, left, right, unfolded = sizes_of(letters, sizes),
                     order = places_of(equation_.result, letters)](Tensors given) {
      return multiply(left(given[0]), right(given[1])).view(unfolded).permute(order);
    };
    return plan;
  }

 private:
  // A sum over nothing is zero, which the product gives for one step of zeros.
  at::Tensor multiply(const at::Tensor& left, const at::Tensor& right) const {
    if (left.size(2) > 0) {
      return product_->run({left, right});
    }
    return product_->run({at::constant_pad_nd(left, {0, 1}, spec_.qparams("input")->zero_point),
                          at::constant_pad_nd(right, {0, 0, 0, 1}, spec_.qparams("other")->zero_point)});
  }

  Sizes common_sizes(Tensors inputs) const {
    Sizes sizes;
    for (const size_t i : {0, 1}) {
      const auto& letters = i == 0 ? equation_.left : equation_.right;
      for (size_t at = 0; at < letters.size(); ++at) {
        const int64_t size = inputs[i].sizes()[at];
        int64_t& known = sizes.emplace(letters[at], size).first->second;
        TORCH_CHECK(known == size || known == 1 || size == 1, "jitquant::", name(), ": '", letters[at],
                    "' is ", known, " in one operand and ", size,
                    " in the other; give it what the model was made for");
        known = known == 1 ? size : known;
      }
    }
    return sizes;
  }

  const Equation equation_;
  const std::string batch_, rows_, columns_, depth_;
  const c10::intrusive_ptr<Kernel> product_;
};

JITQUANT_KERNEL(Einsum, "einsum");

}  // namespace

}  // namespace jitquant::runtime
