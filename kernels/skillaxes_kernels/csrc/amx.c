#include "amx.h"

const products_t products_amx = {
    packed_directions_bytes_amx,
    pack_directions_amx,
    packed_weights_bytes_amx,
    pack_weights_amx,
    project_amx,
    accumulate_amx,
};
