/*
 * loader/schema.h - which matrices a model of a given config has: names, shapes, and how they group.
 *
 * A group is what is read and kept as one piece: the trunk of one layer, one expert, the embedding, the head.
 * The experts of a layer are one group of `count` equal extents.  Every extent of a group has the same
 * parts at the same offsets.  This is the table that the Hugging Face reader and the container both fill.
 */
#ifndef HS_LOADER_SCHEMA_H
#define HS_LOADER_SCHEMA_H

#include "base/dtype.h"
#include "loader/config.h"

typedef enum hs_role {
    HS_EMBED,      /* [vocab][hidden] */
    HS_HEAD,       /* [vocab][hidden]; absent when tied */
    HS_FINAL_NORM, /* [1][hidden] */

    HS_INPUT_NORM, /* [1][hidden] */
    HS_POST_NORM,  /* [1][hidden] */

    /* Gated attention. */
    HS_Q,      /* [q_heads * 2 * head_dim][hidden]: per head, query rows then gate rows */
    HS_K,      /* [kv_heads * head_dim][hidden] */
    HS_V,      /* [kv_heads * head_dim][hidden] */
    HS_O,      /* [hidden][q_heads * head_dim] */
    HS_Q_NORM, /* [1][head_dim] */
    HS_K_NORM, /* [1][head_dim] */

    /* Gated DeltaNet. C = conv channels. */
    HS_QKV,        /* [C][hidden] */
    HS_Z,          /* [v_heads * v_dim][hidden] */
    HS_B,          /* [v_heads][hidden] */
    HS_A,          /* [v_heads][hidden] */
    HS_CONV,       /* [C][conv_taps]; [C, 1, taps] in files */
    HS_A_LOG,      /* [1][v_heads] */
    HS_DT_BIAS,    /* [1][v_heads] */
    HS_DELTA_NORM, /* [1][v_dim] */
    HS_OUT,        /* [hidden][v_heads * v_dim] */

    /* Feed-forward: of a dense layer, or of one expert. */
    HS_GATE, /* [width][hidden] */
    HS_UP,   /* [width][hidden] */
    HS_DOWN, /* [hidden][width] */

    /* Mixture, in the layer's trunk. */
    HS_ROUTER,      /* [experts][hidden] */
    HS_SHARED_GATE, /* [shared_width][hidden] */
    HS_SHARED_UP,   /* [shared_width][hidden] */
    HS_SHARED_DOWN, /* [hidden][shared_width] */
    HS_SHARED_MIX,  /* [1][hidden]: the shared expert's own gate */

    /* Draft head, in the trunk of the MTP layer. */
    HS_MTP_FC,     /* [hidden][2 * hidden] */
    HS_MTP_NORM_E, /* [1][hidden]: of the embedding */
    HS_MTP_NORM_H, /* [1][hidden]: of the hidden state */
    HS_MTP_NORM,   /* [1][hidden]: after the layer */
    HS_ROLE_COUNT
} hs_role;

/* How a role likes to be stored: decides the default precision. */
typedef enum hs_role_class {
    HS_CLASS_MATRIX, /* quantised */
    HS_CLASS_EMBED,
    HS_CLASS_HEAD,
    HS_CLASS_SMALL_MATRIX, /* router, a, b, shared gate: as stored, never quantised by us */
    HS_CLASS_VECTOR        /* norms, conv, A_log, dt_bias: fp32 */
} hs_role_class;

hs_role_class hs_role_class_of(hs_role role);

/* Name below the layer ("mlp.gate_proj.weight") or below the model ("embed_tokens.weight"). */
const char *hs_role_name(hs_role role);

typedef enum hs_group_kind {
    HS_GROUP_GLOBAL, /* final norm */
    HS_GROUP_EMBED,
    HS_GROUP_HEAD,
    HS_GROUP_LAYER,   /* everything of a layer but its routed experts */
    HS_GROUP_EXPERTS, /* the routed experts of one layer */
    HS_GROUP_MTP_LAYER,
    HS_GROUP_MTP_EXPERTS,
    HS_GROUP_KIND_COUNT
} hs_group_kind;

/* "global", "embed", "head", "layer", "experts", "mtp", "mtp-experts" */
const char *hs_group_kind_name(hs_group_kind kind);

enum { HS_PARTS_MAX = 24, HS_EXTENT_ALIGN = 4096 };

typedef struct hs_part {
    hs_role role;
    uint32_t rows, cols;
    hs_dtype dtype;
    uint32_t book;    /* index into hs_table.book; rotated types only */
    bool ordered;     /* INT4: a plane after the others says which input each column is */
    bool scaled;      /* packed types: a plane after those says what the input of each column is multiplied by */
    uint64_t offset;  /* in the extent */
    hs_planes planes; /* from offset */
} hs_part;

typedef struct hs_group {
    hs_group_kind kind;
    uint32_t layer; /* trunk layer; 0 for the others */
    uint32_t count; /* extents */
    uint32_t n_parts;
    hs_part part[HS_PARTS_MAX];
    uint64_t bytes; /* of one extent, a multiple of HS_EXTENT_ALIGN */

    /* Container only. */
    uint64_t file_offset; /* of extent 0; extent e is at file_offset + e * bytes */
    uint64_t *xxh;        /* [count] XXH3-64 of each extent */
} hs_group;

static inline bool hs_group_is_experts(const hs_group *g)
{
    return g->kind == HS_GROUP_EXPERTS || g->kind == HS_GROUP_MTP_EXPERTS;
}

/* 2^bits levels in ascending order, exactly as the file has them; symmetric. */
typedef struct hs_levels {
    uint32_t bits;
    char author; /* 'A' or 'B': the author's book of that name, which the file leaves out; 0: level has them */
    float level[64];
} hs_levels;

typedef struct hs_table {
    hs_config config;
    uint32_t n_groups;
    hs_group *group;
    uint32_t n_books;
    hs_levels book[16];
    bool has_mtp;
    bool drafts; /* and it is to be used; set by whoever opens the model */
} hs_table;

/*
 * The groups and parts of a model: roles and shapes.  dtypes are F32 until someone sets them; call
 * hs_group_place afterwards.  Order: global, embed, head, then each layer's trunk and experts, then MTP.
 */
hlwq_status hs_schema_build(hs_table *table, const hs_config *config, bool has_mtp, hs_arena *arena, hlwq_error *err);

/* Sets the offsets, planes and bytes of a group from its dtypes. */
hlwq_status hs_group_place(hs_group *group, hlwq_error *err);

/* "Q5", "I4Z", "I4/order", "Q5/scaled": a part's dtype and its planes of columns; and back, false if it is none. */
enum { HS_FORMAT_TEXT = 24 };
void hs_part_format(char out[HS_FORMAT_TEXT], const hs_part *part);
bool hs_part_parse_format(hs_part *part, const char *text);

/* The part of that role, NULL if the group has none. */
const hs_part *hs_group_find(const hs_group *group, hs_role role);

/* "layers.3.mlp.experts.17.up_proj.weight", "mtp.fc.weight": without the checkpoint's prefix. */
void hs_part_name(char *out, size_t capacity, const hs_group *group, uint32_t extent, hs_role role);

#endif
