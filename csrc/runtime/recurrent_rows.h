// One row of bytes times the weight of a recurrent layer, which is read from memory at each step: oneDNN's
// product, made for matrices, takes half as long again. The loop exists once for each instruction set.
#pragma once

#include <cstdint>

namespace jitquant::runtime {

// The sums of blocks [begin, end), each [gate][16 units], of `fours` times four bytes. The weight is packed
// as [block][four][gate][16 units][4]; there are sixteen fours, or a multiple of that. Exact for up to 65,536
// bytes.
using MultiplyRow = void (*)(const uint8_t* in, const int8_t* packed, int64_t fours, int64_t begin,
                             int64_t end, int32_t* sums);

// For one, three or four gates.
MultiplyRow multiply_row_for(int64_t gates);

}  // namespace jitquant::runtime
