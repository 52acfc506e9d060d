/*
 * offload/store_planes.h - numbers that no sound file has, in an extent that is about to be used.
 */
#ifndef HS_OFFLOAD_STORE_PLANES_H
#define HS_OFFLOAD_STORE_PLANES_H

#include "loader/schema.h"

/*
 * HLWQ_ERR_FORMAT naming the tensor, and `path`, if a norm, a scale, an entry of a vector is not finite, or a factor is
 * not above zero.  A checksum says only that the bytes are those that were written.
 */
hlwq_status hs_store_check_planes(const hs_group *group, uint32_t extent, const uint8_t *data, const char *path,
                                  hlwq_error *err);

#endif
