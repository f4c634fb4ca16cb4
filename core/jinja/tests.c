/* Tests: `value is name`. */
#include "core/jinja/library.h"
#include "core/jinja/render.h"

#define TEST(name)                                                                                           \
    static struct jinja_value test_##name(struct jinja_render *r, struct jinja_value self,                   \
                                          const struct jinja_value *argv, const struct jinja_args *args)

/* A test that only looks at the value itself. */
#define KIND_TEST(name, condition)                                                                           \
    TEST(name)                                                                                               \
    {                                                                                                        \
        (void)r, (void)argv, (void)args;                                                                     \
        return jinja_bool(condition);                                                                        \
    }

KIND_TEST(defined, self.kind != JINJA_UNDEFINED)
KIND_TEST(undefined, self.kind == JINJA_UNDEFINED)
KIND_TEST(none, self.kind == JINJA_NONE)
KIND_TEST(boolean, self.kind == JINJA_BOOL)
KIND_TEST(is_false, self.kind == JINJA_BOOL && !self.as.boolean)
KIND_TEST(is_true, self.kind == JINJA_BOOL && self.as.boolean)
KIND_TEST(integer, self.kind == JINJA_INT)
KIND_TEST(float, self.kind == JINJA_FLOAT)
KIND_TEST(number, jinja_is_number(self))
KIND_TEST(string, self.kind == JINJA_STRING)
KIND_TEST(mapping, self.kind == JINJA_DICT)
/* Undefined counts as a sequence, an iterable and a callable in jinja2, because its class has the methods. */
KIND_TEST(sequence, self.kind == JINJA_STRING || self.kind == JINJA_LIST || self.kind == JINJA_TUPLE ||
                        self.kind == JINJA_DICT || self.kind == JINJA_RANGE || self.kind == JINJA_UNDEFINED)
KIND_TEST(iterable, jinja_iterable(self) || self.kind == JINJA_LOOP)
KIND_TEST(callable, self.kind == JINJA_FUNCTION || self.kind == JINJA_METHOD || self.kind == JINJA_MACRO ||
                        self.kind == JINJA_LOOP || self.kind == JINJA_JOINER || self.kind == JINJA_UNDEFINED)
KIND_TEST(escaped, self.kind == JINJA_STRING && self.as.string->markup)
KIND_TEST(lower, jinja_str_is_lower(jinja_str(r, self).as.string))
KIND_TEST(upper, jinja_str_is_upper(jinja_str(r, self).as.string))
KIND_TEST(filter, self.kind == JINJA_STRING && jinja_find_filter(self.as.string) != NULL)
KIND_TEST(test, self.kind == JINJA_STRING && jinja_find_test(self.as.string) != NULL)

static bool remainder_is(struct jinja_render *r, struct jinja_value v, struct jinja_value by, int64_t rest)
{
    return jinja_equal(&r->arena, jinja_binary(r, '%', v, by), jinja_int(rest));
}

KIND_TEST(odd, remainder_is(r, self, jinja_int(2), 1))
KIND_TEST(even, remainder_is(r, self, jinja_int(2), 0))
KIND_TEST(divisibleby, remainder_is(r, self, argv[0], 0))
KIND_TEST(sameas, jinja_same(self, argv[0]))
KIND_TEST(in, jinja_contains(r, argv[0], self))
KIND_TEST(eq, jinja_equal(&r->arena, self, argv[0]))
KIND_TEST(ne, !jinja_equal(&r->arena, self, argv[0]))
KIND_TEST(gt, jinja_ordered(r, '>', self, argv[0]))
KIND_TEST(ge, jinja_ordered(r, JINJA_OP_GE, self, argv[0]))
KIND_TEST(lt, jinja_ordered(r, '<', self, argv[0]))
KIND_TEST(le, jinja_ordered(r, JINJA_OP_LE, self, argv[0]))

const struct jinja_function jinja_tests[] = {
    {"defined", "/", test_defined, 0},     {"undefined", "/", test_undefined, 0},
    {"none", "/", test_none, 0},           {"boolean", "/", test_boolean, 0},
    {"false", "/", test_is_false, 0},      {"true", "/", test_is_true, 0},
    {"integer", "/", test_integer, 0},     {"float", "/", test_float, 0},
    {"number", "/", test_number, 0},       {"string", "/", test_string, 0},
    {"mapping", "/", test_mapping, 0},     {"sequence", "/", test_sequence, 0},
    {"iterable", "/", test_iterable, 0},   {"callable", "/", test_callable, 0},
    {"escaped", "/", test_escaped, 0},     {"lower", "/", test_lower, 0},
    {"upper", "/", test_upper, 0},         {"filter", "/", test_filter, 0},
    {"test", "/", test_test, 0},           {"odd", "/", test_odd, 0},
    {"even", "/", test_even, 0},           {"divisibleby", "num", test_divisibleby, 1},
    {"sameas", "other", test_sameas, 1},   {"in", "seq", test_in, 1},
    {"eq", "/other", test_eq, 1},          {"equalto", "/other", test_eq, 1},
    {"==", "/other", test_eq, 1},          {"ne", "/other", test_ne, 1},
    {"!=", "/other", test_ne, 1},          {"gt", "/other", test_gt, 1},
    {"greaterthan", "/other", test_gt, 1}, {">", "/other", test_gt, 1},
    {"ge", "/other", test_ge, 1},          {">=", "/other", test_ge, 1},
    {"lt", "/other", test_lt, 1},          {"lessthan", "/other", test_lt, 1},
    {"<", "/other", test_lt, 1},           {"le", "/other", test_le, 1},
    {"<=", "/other", test_le, 1},
};
const size_t jinja_tests_n = sizeof jinja_tests / sizeof jinja_tests[0];
