// The kernel's sources between the emulated primitives and a function that a test calls.
#include <algorithm>

#include "hopper_emulator.h"

#include "common.cu"
#include "producer.cu"
#include "consumer.cu"
#include "attention.cu"
#include "decode.cu"

namespace emulator {
void call_kernel() { decode(*emulated); }
}  // namespace emulator

extern "C" int emulate(const Params* params, int ctas, u32 seed) {
    emulated = params;
    emulator::run(ctas, seed);
    return USED_BYTES;
}
