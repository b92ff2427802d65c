// The TorchScript object that holds a weight packed for onednn::qconv_pointwise. Its code is saved with the
// module, so stock torch loads it: __getstate__ gives the plain weight, __setstate__ packs it.
#pragma once

#include <memory>

#include <torch/csrc/jit/api/compilation_unit.h>

namespace jitquant {

constexpr const char* kPackedTensor = "packed";

// `arguments` are those of onednn::qconv_prepack. The class is defined in the compilation unit when it is not
// there yet.
c10::IValue make_packed_conv(const std::shared_ptr<torch::jit::CompilationUnit>& unit,
                             const torch::jit::Stack& arguments);

}  // namespace jitquant
