// What a kernel is told when it is made, and all that is saved of it: words and tensors.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace jitquant::runtime {

// Scale and zero point of a uint8 or int8 tensor.
struct QParams {
  double scale;
  int64_t zero_point;
};

// An elementwise function that a kernel applies to what it computed, before it rounds: "clip" with its two
// bounds, "hardswish", "leaky_relu" with its slope …
struct Activation {
  std::string name;  // empty: none
  std::vector<double> arguments;
};

// The text is a list of "name=value" separated by spaces, with numbers separated by commas, such as
// "kernel=conv stride=2,2 input=0.0235,0 activation=clip,0,6".
class Spec {
 public:
  Spec() = default;
  explicit Spec(const std::string& text);

  std::string text() const;

  void set(const std::string& name, const std::string& word);
  void set(const std::string& name, const std::vector<int64_t>& numbers);
  void set(const std::string& name, double number);
  void set(const std::string& name, QParams params);

  void erase(const std::string& name);
  bool has(const std::string& name) const;
  // All of these raise where the name is missing: the file is then damaged or from another version.
  const std::string& word(const std::string& name) const;
  std::vector<int64_t> ints(const std::string& name) const;
  int64_t integer(const std::string& name) const;
  double number(const std::string& name) const;
  std::optional<QParams> qparams(const std::string& name) const;  // nothing where the tensor is float
  Activation activation() const;                                  // none where there is none

  std::vector<at::Tensor> tensors;  // weights, biases

 private:
  std::map<std::string, std::string> words_;
};

}  // namespace jitquant::runtime
