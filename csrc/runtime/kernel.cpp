#include "csrc/runtime/kernel.h"

#include <algorithm>
#include <unordered_map>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

namespace {

constexpr size_t kMostPlans = 8;  // shapes that a kernel remembers

std::unordered_map<std::string, MakeKernel>& makers() {
  static std::unordered_map<std::string, MakeKernel> registered;
  return registered;
}

// Memory that a primitive writes to while it runs: one piece for each thread, as large as the largest needs.
void* scratchpad(size_t bytes) {
  static thread_local at::DataPtr memory;
  static thread_local size_t held = 0;
  if (bytes > held) {
    held = 0;
    memory = at::DataPtr();
    memory = at::getCPUAllocator()->allocate(bytes);
    held = bytes;
  }
  return memory.get();
}

}  // namespace

struct Arguments {
  std::vector<dnnl::memory> memories;  // inputs, output, scratchpad
  std::vector<dnnl_exec_arg_t> list;   // the same, then constants
};

namespace {

std::unique_ptr<Arguments> make_arguments(const Plan& plan) {
  auto arguments = std::make_unique<Arguments>();
  auto add = [&](int index, const dnnl::memory::desc& desc) {
    arguments->memories.emplace_back(desc, engine(), nullptr);
    arguments->list.push_back({index, arguments->memories.back().get()});
  };
  for (const auto& [index, desc] : plan.inputs) {
    add(index, desc);
  }
  add(plan.output.first, plan.output.second);
  add(DNNL_ARG_SCRATCHPAD, plan.scratchpad);
  for (const auto& [index, memory] : plan.constants) {
    arguments->list.push_back({index, memory.get()});
  }
  return arguments;
}

void point_at(const dnnl::memory& memory, const void* data) {
  check(dnnl_memory_set_data_handle(memory.get(), const_cast<void*>(data)), "point at memory");
}

}  // namespace

// A plan, what it was made for, and the arguments that no call is using at the moment.
struct Kernel::Entry {
  std::vector<std::vector<int64_t>> sizes;  // of each input
  std::vector<std::vector<int64_t>> strides_in;
  std::vector<at::ScalarType> dtypes;
  int threads;
  std::shared_ptr<Plan> plan;
  std::vector<int64_t> strides_out;
  std::vector<std::unique_ptr<Arguments>> idle;

  bool fits(Tensors inputs, int now) const {
    if (threads != now || sizes.size() != inputs.size()) {
      return false;
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i].sizes() != c10::IntArrayRef(sizes[i]) ||
          inputs[i].strides() != c10::IntArrayRef(strides_in[i]) || inputs[i].scalar_type() != dtypes[i]) {
        return false;
      }
    }
    return true;
  }
};

Kernel::Kernel(Spec spec)
    : spec_(std::move(spec)), in_place_(spec_.has("sum") && spec_.word("sum") == "in_place") {}

Kernel::~Kernel() = default;

at::Tensor Kernel::run(Tensors given) {
  Inputs inputs(given.begin(), given.end());
  accept(inputs);
  const auto entry = entry_for(inputs);
  TORCH_CHECK(!entry->plan->compute_several, "jitquant: a kernel '", name(),
              "' gives several results, and this op gives one; run it by the op that it was made for");
  if (entry->plan->compute) {
    return entry->plan->compute(inputs);
  }
  return execute(*entry, inputs);
}

std::vector<at::Tensor> Kernel::run_several(Tensors given) {
  Inputs inputs(given.begin(), given.end());
  accept(inputs);
  return entry_for(inputs)->plan->compute_several(inputs);
}

std::shared_ptr<Kernel::Entry> Kernel::entry_for(Tensors inputs) {
  const int threads = at::get_num_threads();  // primitives are made for it
  const std::lock_guard<std::mutex> guard(mutex_);
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if ((*it)->fits(inputs, threads)) {
      if (it != entries_.begin()) {
        entries_.splice(entries_.begin(), entries_, it);
      }
      return entries_.front();
    }
  }
  auto entry = std::make_shared<Entry>();
  for (const auto& input : inputs) {
    entry->sizes.push_back(input.sizes().vec());
    entry->strides_in.push_back(input.strides().vec());
    entry->dtypes.push_back(input.scalar_type());
  }
  entry->threads = threads;
  entry->plan = make_plan(inputs);
  entry->strides_out = entry->plan->strides.empty() ? strides_of(entry->plan->sizes, entry->plan->layout)
                                                    : entry->plan->strides;
  entries_.push_front(entry);
  if (entries_.size() > kMostPlans) {
    entries_.pop_back();
  }
  return entry;
}

at::Tensor Kernel::execute(Entry& entry, Tensors inputs) {
  const Plan& plan = *entry.plan;
  at::Tensor result;
  if (plan.overwrites >= 0) {
    const at::Tensor& target = inputs[static_cast<size_t>(plan.overwrites)];
    result = in_place_ || plan.is_fresh ? target : target.clone();
  } else {
    result = at::detail::empty_strided_cpu(plan.sizes, entry.strides_out, plan.dtype);
  }
  if (plan.loop) {
    plan.loop(inputs, result.data_ptr());
    return result;
  }
  if (!plan.primitive) {
    return result;
  }
  std::unique_ptr<Arguments> arguments;
  {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (!entry.idle.empty()) {
      arguments = std::move(entry.idle.back());
      entry.idle.pop_back();
    }
  }
  if (arguments == nullptr) {
    arguments = make_arguments(plan);
  }
  const size_t count = plan.inputs.size();
  for (size_t i = 0; i < count; ++i) {
    point_at(arguments->memories[i], inputs[i].const_data_ptr());
  }
  point_at(arguments->memories[count], result.data_ptr());
  point_at(arguments->memories[count + 1], scratchpad(plan.scratchpad.get_size()));
  check(dnnl_primitive_execute(plan.primitive.get(), stream().get(), static_cast<int>(arguments->list.size()),
                               arguments->list.data()),
        "execute");
  const std::lock_guard<std::mutex> guard(mutex_);
  entry.idle.push_back(std::move(arguments));
  return result;
}

std::string Kernel::implementation() const {
  const std::lock_guard<std::mutex> guard(mutex_);
  return entries_.empty() ? "" : entries_.front()->plan->implementation;
}

int64_t Kernel::multiply_adds() const {
  const std::lock_guard<std::mutex> guard(mutex_);
  return entries_.empty() ? 0 : entries_.front()->plan->multiply_adds;
}

RegisterKernel::RegisterKernel(const char* name, MakeKernel make) { makers()[name] = make; }

c10::intrusive_ptr<Kernel> make_kernel(Spec spec) {
  auto found = makers().find(spec.word("kernel"));
  TORCH_CHECK(found != makers().end(), "jitquant: this op library has no kernel '", spec.word("kernel"),
              "'; load the library of the version that made the file");
  return found->second(std::move(spec));
}

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

const dnnl::stream& stream() {
  static thread_local const dnnl::stream own(engine());
  return own;
}

}  // namespace jitquant::runtime
