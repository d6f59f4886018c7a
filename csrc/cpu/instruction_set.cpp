#include <cstdlib>
#include <cstring>

#include "cpu/simd/variants.h"

namespace dynamask::simd {
namespace {

InstructionSet best_of_this_machine() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return __builtin_cpu_supports("avx512bf16") ? InstructionSet::avx512bf16
                                                : InstructionSet::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return InstructionSet::avx2;
#endif
  return InstructionSet::baseline;
}

InstructionSet choose() {
  const auto best = best_of_this_machine();
  const char* wanted = std::getenv("DYNAMASK_SIMD");
  if (!wanted) return best;
  const char* names[] = {"baseline", "avx2", "avx512", "avx512bf16"};  // in the order of the enum
  for (int i = 0; i < static_cast<int>(best); ++i)
    if (!std::strcmp(wanted, names[i])) return static_cast<InstructionSet>(i);
  return best;
}

const InstructionSet chosen = choose();

}  // namespace

InstructionSet instruction_set() { return chosen; }

}  // namespace dynamask::simd
