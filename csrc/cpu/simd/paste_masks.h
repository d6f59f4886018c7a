#pragma once

#include <cstdint>

#include "cpu/simd/variants.h"
#include "ops/paste_masks.h"

namespace dynamask::simd {

// One axis as a table over the pixels [begin, end).
struct PasteTable {
  int32_t* cell;
  float *before, *after;
};

// What stays the same over the parallel lines (columns, or rows) of one pasted mask.
struct PasteLines {
  const float* samples;  // the mask with its ring of zeros: line i of samples is at i * stride
  int64_t stride;
  bool columns;  // lines are columns of the image, and of the mask
  SumOrder order;
  float threshold;
  float doubt;  // a fast value this close to the threshold is computed again, exactly

  // along a line
  PasteTable table;
  int32_t pixels;
  const int32_t* first_pixel;  // of each cell, counted from the first pixel of the table
  float pixels_per_cell;
  float* values;  // scratch: one line of samples, and room for 64 + a vector
};

struct PasteMasksKernels {
  // Entries of the table for pixels axis.begin .. axis.end.
  void (*tabulate)(const PasteAxis& axis, int32_t mask_size, const PasteTable& table);
  // Copies a mask [size, size] into lines of samples with a ring of zeros, lines being its columns
  // or its rows; returns the largest magnitude in it, infinite or NaN if one is.
  float (*pad)(const float* mask, int64_t size, bool columns, float* samples, int64_t stride);
  // The pixels of one line at which the foreground begins or ends; returns how many.
  int64_t (*changes)(const PasteLines& lines, int32_t cell, float before, float after, int32_t* at);
};

}  // namespace dynamask::simd

DYNAMASK_DECLARE_VARIANTS(dynamask::simd::PasteMasksKernels, paste_masks_kernels)
