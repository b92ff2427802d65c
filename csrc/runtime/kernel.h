// A kernel: one oneDNN primitive with all that does not change from call to call. It is made for the sizes of
// its inputs and kept, so that a call only looks the sizes up, points at the memory and executes.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>
#include <torch/custom_class.h>

#include "csrc/runtime/spec.h"

namespace jitquant::runtime {

using Tensors = c10::ArrayRef<at::Tensor>;
using Inputs = c10::SmallVector<at::Tensor, 4>;

// How a tensor lies in memory.
enum class Layout {
  Contiguous,
  ChannelsLast,  // also of 3-d and 5-d tensors
};

// What is decided once for the sizes of the inputs.
struct Plan {
  // The result.
  std::vector<int64_t> sizes;
  Layout layout = Layout::ChannelsLast;
  std::vector<int64_t> strides;  // where neither layout says how the result lies
  at::ScalarType dtype = at::kByte;
  int overwrites = -1;    // the input whose memory the result takes; a copy of it where it may not
  bool is_fresh = false;  // it may: accept has made that memory, or asked whether it may be written to

  dnnl::primitive primitive;  // empty where there is nothing to compute
  std::string implementation;
  int64_t multiply_adds = 0;
  std::vector<std::pair<int, dnnl::memory::desc>> inputs;  // the argument index of each input
  std::pair<int, dnnl::memory::desc> output{DNNL_ARG_DST, {}};
  dnnl::memory::desc scratchpad;
  std::vector<std::pair<int, dnnl::memory>> constants;  // scales, packed weights …

  // Instead of a primitive: a loop that writes to the memory of the result …
  std::function<void(Tensors, void*)> loop;
  // … or what makes the result by other means.
  std::function<at::Tensor(Tensors)> compute;
  // … or all results of a kernel that gives several, of which nothing above is said.
  std::function<std::vector<at::Tensor>(Tensors)> compute_several;
};

// What one call at a time needs: oneDNN's arguments, in which only pointers change.
struct Arguments;

class Kernel : public torch::CustomClassHolder {
 public:
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  ~Kernel() override;

  // Safe to be called by several threads. Raises where the inputs are not what the kernel was made for.
  at::Tensor run(Tensors inputs);
  // The same for a kernel that gives several results.
  std::vector<at::Tensor> run_several(Tensors inputs);

  const Spec& spec() const { return spec_; }

  // What a profile says of the last plan used.
  virtual std::string implementation() const;
  virtual int64_t multiply_adds() const;

 protected:
  explicit Kernel(Spec spec);

  // Checks the inputs and brings them into the layouts that the kernel takes.
  virtual void accept(Inputs& inputs) const = 0;
  // Decides everything for inputs of these sizes and strides, which accept has seen.
  virtual std::shared_ptr<Plan> make_plan(Tensors inputs) = 0;

  const std::string& name() const { return spec_.word("kernel"); }

  const Spec spec_;
  const bool in_place_;  // whether the result may take an input's memory

 private:
  struct Entry;
  std::shared_ptr<Entry> entry_for(Tensors inputs);
  at::Tensor execute(Entry& entry, Tensors inputs);

  mutable std::mutex mutex_;
  std::list<std::shared_ptr<Entry>> entries_;  // the one used last comes first
};

// Makes the kernel that a spec describes. Raises where this processor or this version cannot run it.
c10::intrusive_ptr<Kernel> make_kernel(Spec spec);

using MakeKernel = c10::intrusive_ptr<Kernel> (*)(Spec);

struct RegisterKernel {
  RegisterKernel(const char* name, MakeKernel make);
};

const dnnl::engine& engine();
const dnnl::stream& stream();  // of this thread

}  // namespace jitquant::runtime

#define JITQUANT_KERNEL(Class, name)                                                                \
  static const ::jitquant::runtime::RegisterKernel Class##_registration(                            \
      name, [](::jitquant::runtime::Spec spec) -> c10::intrusive_ptr<::jitquant::runtime::Kernel> { \
        return c10::make_intrusive<Class>(std::move(spec));                                         \
      })
