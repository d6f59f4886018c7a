// One kernel source, several instruction sets.
//
// A file `simd/<op>.cpp` is compiled once per variant, each time with DYNAMASK_VARIANT set to
// baseline, avx2 or avx512, into the namespace of that name. It ends in a table of function
// pointers; `simd/<op>.h` declares the table and the caller takes the one for this machine:
//
//   // simd/scale.h
//   struct ScaleKernels { void (*scale)(const float* in, float* out, int64_t n, float by); };
//   DYNAMASK_DECLARE_VARIANTS(ScaleKernels, scale_kernels)
//   // simd/scale.cpp
//   namespace dynamask::simd::DYNAMASK_VARIANT { const ScaleKernels scale_kernels = {&scale}; }
//   // cpu/scale.cpp
//   simd::scale_kernels().scale(in, out, n, 2.f);
//
// A file `simd/<op>_bf16.cpp` holds what only processors with AVX512-BF16 run. It is compiled once,
// as variant avx512bf16; there, every other table is the one for avx512. DYNAMASK_VARIANT_avx512 is
// defined wherever there is AVX-512, so in both.
//
// Kernels get plain pointers and scratch from their caller, and use no std:: containers: the linker
// keeps one copy of an inline function, and it must not be the one compiled for AVX-512.

#pragma once

namespace dynamask::simd {

enum class InstructionSet { baseline, avx2, avx512, avx512bf16 };

// What this machine can run, or what the environment variable DYNAMASK_SIMD asks for (it may ask
// for less, never for more). Read once, when the library is loaded.
InstructionSet instruction_set();

}  // namespace dynamask::simd

#if defined(__x86_64__)
#define DYNAMASK_DECLARE_VARIANTS(Table, name) \
  namespace dynamask::simd {                   \
  namespace baseline {                         \
  extern const Table name;                     \
  }                                            \
  namespace avx2 {                             \
  extern const Table name;                     \
  }                                            \
  namespace avx512 {                           \
  extern const Table name;                     \
  }                                            \
  inline const Table& name() {                 \
    switch (instruction_set()) {               \
      case InstructionSet::avx512bf16:         \
      case InstructionSet::avx512:             \
        return avx512::name;                   \
      case InstructionSet::avx2:               \
        return avx2::name;                     \
      default:                                 \
        return baseline::name;                 \
    }                                          \
  }                                            \
  }
#else
#define DYNAMASK_DECLARE_VARIANTS(Table, name)          \
  namespace dynamask::simd {                            \
  namespace baseline {                                  \
  extern const Table name;                              \
  }                                                     \
  inline const Table& name() { return baseline::name; } \
  }
#endif

// The table of a file `simd/<op>_bf16.cpp`: a pointer, null where this machine cannot run it.
#if defined(__x86_64__)
#define DYNAMASK_DECLARE_BF16(Table, name)                                                \
  namespace dynamask::simd {                                                              \
  namespace avx512bf16 {                                                                  \
  extern const Table name;                                                                \
  }                                                                                       \
  inline const Table* name() {                                                            \
    return instruction_set() == InstructionSet::avx512bf16 ? &avx512bf16::name : nullptr; \
  }                                                                                       \
  }
#else
#define DYNAMASK_DECLARE_BF16(Table, name)       \
  namespace dynamask::simd {                     \
  inline const Table* name() { return nullptr; } \
  }
#endif
