/*
 * base/available.h - how much memory this process may still take.
 */
#ifndef HS_BASE_AVAILABLE_H
#define HS_BASE_AVAILABLE_H

#include <stdint.h>

/*
 * Bytes that can be taken without pushing anything out: what the system says is available, or what the process's
 * control group (v2) leaves of its limit, whichever is less.  UINT64_MAX where neither is known.
 */
uint64_t hs_memory_available(void);

#endif
