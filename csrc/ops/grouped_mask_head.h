// grouped_mask_head: the mask logits of every RoI at its own mask size, its own class's alone, one
// mask after the other in the order of the RoIs.
//
//   values[mask_offsets[i] + p] = bias_k[l] + sum_c weight_k[l, c] * features_k[j, c, p]
//
// for the RoI i = order[j] at place j, with the mask size number k = state[i], the class l =
// labels[i], or 0 where exit k has one class for all labels, and p = 0 ... S_k * S_k - 1. A label
// out of range gives zeros; of a state out of range nothing is written.

#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace dynamask {

// What leaves at one mask size.
struct MaskExitShape {
  int64_t channels, pixels, classes;
};

// Which mask the RoI at one place gets; all arrays are [N], mask_offsets [N + 1].
struct MaskPlan {
  int64_t rois, exits;
  int64_t numel;  // room for values
  const int64_t *labels, *state, *order, *mask_offsets;
};

struct PlannedMask {
  int64_t exit = -1;  // negative: none
  int64_t start = 0;  // in the values
  int64_t row = -1;   // of the weight; negative: zeros
};

DYNAMASK_HOST_DEVICE PlannedMask planned_mask(const MaskPlan& plan, const MaskExitShape* shapes,
                                              int64_t place) {
  PlannedMask mask;
  const int64_t roi = plan.order[place];
  if (roi < 0 || roi >= plan.rois) return mask;
  const int64_t exit = plan.state[roi], start = plan.mask_offsets[roi];
  if (exit < 0 || exit >= plan.exits) return mask;
  const MaskExitShape& s = shapes[exit];
  if (start < 0 || start > plan.numel - s.pixels) return mask;
  const int64_t label = s.classes == 1 ? 0 : plan.labels[roi];
  mask.exit = exit;
  mask.start = start;
  mask.row = 0 <= label && label < s.classes ? label : -1;
  return mask;
}

}  // namespace dynamask
