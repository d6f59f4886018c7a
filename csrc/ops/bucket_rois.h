// bucket_rois: sort RoIs by the mask size they need, largest first, so that every stage of the
// mask branch works on a prefix of one order.
//
//   order    positions of the RoIs, by descending state, stable: order[j] is the RoI at place j
//   inverse  the place of each RoI: inverse[order[j]] = j
//   counts   how many RoIs have each state
//   offsets  offsets[b] is the place where the b-th bucket starts; bucket b holds state
//            num_states - 1 - b. RoIs of state >= s are the prefix of length offsets[num_states -
//            s].
//
// With the side S of the masks of each state, also where they lie one after the other, in the order
// of the RoIs:
//
//   mask_sizes    the side of each RoI's mask; 0 for a state out of range
//   mask_offsets  where each mask starts, and the end of the last

#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace dynamask {

// The bucket of a state; one past the last for a state out of range.
DYNAMASK_HOST_DEVICE int64_t bucket_of_state(int64_t state, int64_t num_states) {
  return 0 <= state && state < num_states ? num_states - 1 - state : num_states;
}

}  // namespace dynamask
