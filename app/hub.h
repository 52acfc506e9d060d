/*
 * app/hub.h - models that another program has downloaded into the Hugging Face cache. Nothing is downloaded here.
 */
#ifndef HS_APP_HUB_H
#define HS_APP_HUB_H

#include "base/error.h"

/*
 * `given` itself (allocated) where such a path exists or it cannot be a repository's name; for "owner/name", or
 * "owner/name/folder", the newest snapshot in the cache.  Not there: HLWQ_ERR_IO, and how to get it.
 */
hlwq_status app_hub_path(const char *given, char **path, hlwq_error *err);

#endif
