/* A rendering, and the operations on values that the parts of the interpreter share.
 *
 * Functions return values directly: an error does not return (arena.h). */
#ifndef SHARPI_JINJA_RENDER_H
#define SHARPI_JINJA_RENDER_H

#include "core/jinja/node.h"
#include "core/jinja/parser.h"
#include "core/jinja/value.h"

struct jinja_variable {
    const struct jinja_string *name; /* interned */
    struct jinja_value value;
};

struct jinja_scope {
    struct jinja_scope *outer;
    struct jinja_variable *items;
    uint32_t n, capacity;
};

struct jinja_render {
    struct jinja_arena arena; /* first: everything fails and allocates here */
    const struct jinja_names *names;
    struct jinja_dict *context;
    struct jinja_scope *scope, *top;
    struct sharpi_template_text text; /* output, and at its end what is being captured */
    uint64_t max_text;
    struct jinja_value captured; /* what a filter block or a set block filters */
    bool has_time;
    int64_t time;
};

/* Arguments of a call as written. */
struct jinja_named {
    const struct jinja_string *name;
    struct jinja_value value;
};

struct jinja_args {
    struct jinja_value *items;
    struct jinja_named *named;
    uint32_t n, n_named;
};

/* A filter, test, method or global function. `self` is what is filtered, tested or owns the method. With
 * `parameters` ("d,attribute"; a leading '/' forbids naming them) argv holds one value each, MISSING where not
 * given, of which the first n_required are there; without, the function reads args itself. */
struct jinja_function {
    const char *name;
    const char *parameters;
    struct jinja_value (*call)(struct jinja_render *r, struct jinja_value self,
                               const struct jinja_value *argv, const struct jinja_args *args);
    int32_t n_required;
};

struct jinja_method {
    struct jinja_value self;
    const struct jinja_function *function;
};

/* Text that grows in the arena. */
struct jinja_writer {
    struct jinja_render *r;
    char *p;
    size_t n, capacity;
};

/* text.c */
struct jinja_writer jinja_writer_new(struct jinja_render *r, size_t capacity);
void jinja_write(struct jinja_writer *w, const char *p, size_t n);
void jinja_write_z(struct jinja_writer *w, const char *text);
void jinja_write_char(struct jinja_writer *w, char c);
void jinja_write_point(struct jinja_writer *w, uint32_t c);
void jinja_write_escaped(struct jinja_writer *w, const struct jinja_string *s); /* & < > ' " */
struct jinja_value jinja_written(struct jinja_writer *w);
struct jinja_value jinja_str(struct jinja_render *r, struct jinja_value v); /* Python's str(); drops markup */
struct jinja_value jinja_soft_str(struct jinja_render *r, struct jinja_value v); /* keeps markup */
struct jinja_value jinja_repr(struct jinja_render *r, struct jinja_value v);
struct jinja_value jinja_escape(struct jinja_render *r, struct jinja_value v); /* markupsafe.escape */
void jinja_write_str(struct jinja_writer *w, struct jinja_value v);
void jinja_write_repr(struct jinja_writer *w, struct jinja_value v);

/* compare.c */
bool jinja_truth(struct jinja_render *r, struct jinja_value v);
bool jinja_equal(struct jinja_arena *arena, struct jinja_value a, struct jinja_value b);
bool jinja_same(struct jinja_value a, struct jinja_value b); /* Python's `is`, as far as it is defined */
/* One of < > JINJA_OP_LE JINJA_OP_GE. */
bool jinja_ordered(struct jinja_render *r, int32_t op, struct jinja_value a, struct jinja_value b);
bool jinja_contains(struct jinja_render *r, struct jinja_value container, struct jinja_value item);
bool jinja_hashable(struct jinja_value v);
uint64_t jinja_hash(struct jinja_arena *arena, struct jinja_value v);

/* arithmetic.c */
struct jinja_value jinja_binary(struct jinja_render *r, int32_t op, struct jinja_value a,
                                struct jinja_value b);
struct jinja_value jinja_negate(struct jinja_render *r, int32_t op, struct jinja_value a);
/* An int or bool argument; `what` names it in the error. */
int64_t jinja_need_int(struct jinja_render *r, struct jinja_value v, const char *what);
const struct jinja_string *jinja_need_string(struct jinja_render *r, struct jinja_value v, const char *what);

/* iterate.c */
struct jinja_iterator *jinja_iterate(struct jinja_render *r, struct jinja_value v);
bool jinja_iterable(struct jinja_value v);
bool jinja_step(struct jinja_render *r, struct jinja_iterator *it, struct jinja_value *v);
struct jinja_value jinja_iterator_of(struct jinja_render *r, struct jinja_array *array); /* a generator */
struct jinja_value jinja_list_of(struct jinja_render *r, struct jinja_value v);
/* Length of what has one, or -1. */
int64_t jinja_length(struct jinja_render *r, struct jinja_value v);
struct jinja_value jinja_pair(struct jinja_render *r, struct jinja_value a, struct jinja_value b);
struct jinja_value jinja_range_new(struct jinja_render *r, int64_t start, int64_t stop, int64_t step);
/* A lazy iterator over `source` for map and select (filters), see iterate.c. */
typedef bool jinja_stage(struct jinja_render *r, void *state, struct jinja_value *v);
struct jinja_value jinja_lazy(struct jinja_render *r, struct jinja_value source, jinja_stage *stage,
                              void *state);

/* access.c */
struct jinja_value jinja_get_attribute(struct jinja_render *r, struct jinja_value object,
                                       const struct jinja_string *name);
struct jinja_value jinja_get_item(struct jinja_render *r, struct jinja_value object,
                                  struct jinja_value index);
struct jinja_value jinja_slice_of(struct jinja_render *r, struct jinja_value object, struct jinja_value start,
                                  struct jinja_value stop, struct jinja_value step);

/* call.c */
struct jinja_value jinja_call(struct jinja_render *r, struct jinja_value callee,
                              const struct jinja_args *args);
struct jinja_value jinja_invoke(struct jinja_render *r, const struct jinja_function *function,
                                struct jinja_value self, const struct jinja_args *args);
struct jinja_args jinja_eval_args(struct jinja_render *r, const struct jinja_call *call);

/* eval.c and exec.c */
struct jinja_value jinja_eval(struct jinja_render *r, const struct jinja_node *node);
enum jinja_flow { JINJA_GO_ON, JINJA_DO_BREAK, JINJA_DO_CONTINUE };
enum jinja_flow jinja_exec(struct jinja_render *r, const struct jinja_nodes *body);
struct jinja_value jinja_lookup(struct jinja_render *r, const struct jinja_string *name);
void jinja_define(struct jinja_render *r, struct jinja_scope *scope, const struct jinja_string *name,
                  struct jinja_value value);
void jinja_assign(struct jinja_render *r, const struct jinja_node *target, struct jinja_value value);
/* Text written since `mark` becomes a string and leaves the output. */
struct jinja_value jinja_capture(struct jinja_render *r, size_t mark);
void jinja_output(struct jinja_render *r, const char *p, size_t n);

/* macro.c: macros and loops as values */
struct jinja_value jinja_macro_new(struct jinja_render *r, const struct jinja_node *node);
struct jinja_value jinja_macro_call(struct jinja_render *r, struct jinja_macro *macro,
                                    const struct jinja_args *given);
struct jinja_value jinja_macro_attribute(struct jinja_render *r, const struct jinja_macro *macro,
                                         const struct jinja_string *name);
const struct jinja_string *jinja_macro_name(const struct jinja_macro *macro);
enum jinja_flow jinja_exec_for(struct jinja_render *r, const struct jinja_node *node);
struct jinja_value jinja_loop_call(struct jinja_render *r, struct jinja_loop *loop,
                                   const struct jinja_args *args);
struct jinja_value jinja_loop_attribute(struct jinja_render *r, struct jinja_loop *loop,
                                        struct jinja_value self, const struct jinja_string *name);

/* json.c */
struct jinja_value jinja_from_json(struct jinja_render *r, const json_t *json);
extern const struct jinja_function jinja_tojson_filter;

/* format.c */
struct jinja_value jinja_percent(struct jinja_render *r, struct jinja_value format, struct jinja_value args);
struct jinja_value jinja_str_format(struct jinja_render *r, const struct jinja_string *format,
                                    const struct jinja_args *args);

/* sort.c: stable; keys are compared with <. The items come back in order in a new list. */
struct jinja_value jinja_sorted(struct jinja_render *r, struct jinja_value items,
                                const struct jinja_value *keys, bool reverse);

#endif
