// What a pass is: a named function over the graphs of one module that returns how many rewrites it made.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include "csrc/report.h"

namespace jitquant {

// The observers of one qconfig; every value that is observed gets a copy of its own.
struct ObserverPair {
  torch::jit::Module activation;
  torch::jit::Module weight;
};

// The observers of each of a method's ops with a row, in program order; nothing where the op stays float.
using Assignments = std::map<std::string, std::vector<std::optional<ObserverPair>>>;

struct Target;

struct Options {
  std::string engine = "x86";
  std::string target = "quantized";
  Assignments assignments;
  std::vector<std::string> preserved_attrs;
  // What integer ops compute, in floating point, by their names; of emulate_integers.
  std::map<std::string, std::shared_ptr<torch::jit::Graph>> formulas;
};

// One module, the methods that are worked on, and the only ways to read and to write what is not in a graph.
class Context {
 public:
  Context(torch::jit::Module module, std::vector<std::string> methods, Options options);

  torch::jit::Module module;
  Options options;
  // What could not be done and a user should know; shown as Python warnings.
  std::vector<std::string> warnings;
  // By method, where a pass decided about ops.
  std::map<std::string, std::vector<OpReport>> reports;

  const Target& target() const { return *target_; }
  const std::vector<std::string>& methods() const { return methods_; }
  std::vector<std::shared_ptr<torch::jit::Graph>> graphs() const;  // in the order of methods()

  // The value of a constant, of an attribute that no method writes to, or of the transpose of either.
  std::optional<c10::IValue> static_value(const torch::jit::Value* value) const;
  std::optional<at::Tensor> static_tensor(const torch::jit::Value* value) const;

  // What an attribute of the top module holds. A type itself looks through all of its attributes for a name.
  std::optional<c10::IValue> attribute(const std::string& name) const;

  // How often each tensor attribute is used, by its dotted path, in all methods of the module.
  std::unordered_map<std::string, size_t> attribute_uses() const;

  // Makes `data` readable before `node`, beside the static value `like`: a constant where `like` is one, else
  // the attribute `name` of the module that owns `like`. That is overwritten if `replaced` reads it, or if it
  // is None; where it is something else, the new attribute gets a free name.
  torch::jit::Value* set_static(torch::jit::Node* node, torch::jit::Value* like, const std::string& name,
                                const at::Tensor& data, torch::jit::Value* replaced);

  // A new attribute of the top module, named by `prefix` and the next free number, read before `node`.
  torch::jit::Value* new_attribute(torch::jit::Node* node, const std::string& prefix,
                                   const c10::IValue& value, const c10::TypePtr& type);
  // The same for a submodule.
  torch::jit::Value* new_submodule(torch::jit::Node* node, const std::string& prefix,
                                   const torch::jit::Module& submodule);

  // Removes attributes of the top module that no graph reads any more.
  void remove_attributes(const std::vector<std::string>& names);

 private:
  using Slots = std::unordered_map<std::string, size_t>;

  Slots& slots_of(const c10::ClassType& type) const;
  std::optional<size_t> find_slot(const c10::ClassType& type, const std::string& name) const;
  std::optional<c10::IValue> read(const torch::jit::Value* attribute) const;
  const std::vector<torch::jit::Module>& modules_of(const c10::ClassTypePtr& type);
  void make_optional(const c10::ClassTypePtr& type, const std::string& name);
  void add_tensor(const c10::ClassTypePtr& type, const std::string& name);

  const Target* target_;
  std::vector<std::string> methods_;
  std::set<std::pair<const c10::ClassType*, std::string>> written_;
  std::unordered_map<std::string, size_t> next_number_;
  // Both are filled when first asked for. Whatever moves the slots of a type has to forget what is known of
  // it.
  mutable std::unordered_map<const c10::ClassType*, Slots> slots_;
  std::unordered_map<const c10::ClassType*, std::vector<torch::jit::Module>> modules_;
};

struct Pass {
  std::string name;
  std::string purpose;
  int64_t (*run)(Context&);
};

const std::map<std::string, Pass>& all_passes();

struct RegisterPass {
  RegisterPass(const char* name, const char* purpose, int64_t (*run)(Context&));
};

// Runs one pass and returns its count of rewrites. Raises QuantizationError where no pass has that name.
int64_t run_pass(const std::string& name, Context& context);

}  // namespace jitquant

#define JITQUANT_PASS(Function, name, purpose) \
  static const ::jitquant::RegisterPass Function##_registration(name, purpose, Function)
