// TorchScript objects that hold a weight packed for onednn::qconv_pointwise, onednn::qlinear_pointwise or
// quantized::linear_dynamic_fp16, or integers made float for aten::linear. Their code is saved with the
// module, so stock torch loads it:
// __getstate__ gives the plain weight, __setstate__ packs it.
#pragma once

#include <memory>
#include <optional>

#include <torch/csrc/jit/api/compilation_unit.h>

namespace jitquant {

constexpr const char* kPackedTensor = "packed";

// `arguments` are those of the op `prepack`. Nothing where stock torch can save what that op gives, as small
// as it is. The class
// is defined in the compilation unit when it is not there yet.
std::optional<c10::IValue> make_packed_weight(const std::shared_ptr<torch::jit::CompilationUnit>& unit,
                                              c10::Symbol prepack, const torch::jit::Stack& arguments);

}  // namespace jitquant
