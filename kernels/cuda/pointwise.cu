// What is computed for one element, by the names that the host's table of operators uses (src/gpu/functions.rs). Register types in, register
// types out; a formula is ONNX's where nothing else is said.

#define EACH(name, formula) template <class T> __device__ __forceinline__ T name(T x) { return formula; }
#define PAIR(name, formula) template <class T> __device__ __forceinline__ T name(T x, T y) { return formula; }
#define TEST(name, formula) template <class T> __device__ __forceinline__ bool name(T x, T y) { return formula; }

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
__device__ __forceinline__ float square_root(float x) { return sqrtf(x); }
__device__ __forceinline__ double square_root(double x) { return sqrt(x); }
__device__ __forceinline__ float error_function(float x) { return erff(x); }
__device__ __forceinline__ double error_function(double x) { return erf(x); }
__device__ __forceinline__ float hyperbolic_tangent(float x) { return tanhf(x); }
__device__ __forceinline__ double hyperbolic_tangent(double x) { return tanh(x); }
__device__ __forceinline__ float floor_of(float x) { return floorf(x); }
__device__ __forceinline__ double floor_of(double x) { return floor(x); }
__device__ __forceinline__ float ceil_of(float x) { return ceilf(x); }
__device__ __forceinline__ double ceil_of(double x) { return ceil(x); }
__device__ __forceinline__ float to_even(float x) { return rintf(x); }
__device__ __forceinline__ double to_even(double x) { return rint(x); }
__device__ __forceinline__ float log_of_1_plus(float x) { return log1pf(x); }
__device__ __forceinline__ double log_of_1_plus(double x) { return log1p(x); }
#define FUNCTION(name, single, twice) \
    __device__ __forceinline__ float name(float x) { return single(x); } \
    __device__ __forceinline__ double name(double x) { return twice(x); }
FUNCTION(sine, sinf, sin)
FUNCTION(cosine, cosf, cos)
FUNCTION(tangent, tanf, tan)
FUNCTION(arc_sine, asinf, asin)
FUNCTION(arc_cosine, acosf, acos)
FUNCTION(arc_tangent, atanf, atan)
FUNCTION(hyperbolic_sine, sinhf, sinh)
FUNCTION(hyperbolic_cosine, coshf, cosh)
FUNCTION(arc_hyperbolic_sine, asinhf, asinh)
FUNCTION(arc_hyperbolic_cosine, acoshf, acosh)
FUNCTION(arc_hyperbolic_tangent, atanhf, atanh)

EACH(same, x)
EACH(negative, -x)
EACH(absolute, x < (T)0 ? -x : x)
__device__ __forceinline__ float absolute(float x) { return fabsf(x); }
__device__ __forceinline__ double absolute(double x) { return fabs(x); }
EACH(reciprocal, (T)1 / x)
EACH(sign, x != x ? x : (T)((x > (T)0) - (x < (T)0)))
EACH(squared, x * x)
EACH(sigmoid, (T)1 / ((T)1 + exponential(-x)))
EACH(softsign, x / ((T)1 + absolute(x)))
EACH(gelu, (T)0.5 * x * ((T)1 + error_function(x * (T)0.70710678118654752440)))
EACH(gelu_tanh, (T)0.5 * x * ((T)1 + hyperbolic_tangent((T)0.79788456080286535588 * (x + (T)0.044715 * x * x * x))))
// log(1 + exp(x)) without overflow.
EACH(softplus, (x > (T)0 ? x : (T)0) + log_of_1_plus(exponential(-absolute(x))))
EACH(mish, x * hyperbolic_tangent(softplus(x)))
EACH(hard_swish, x * (x + (T)3 <= (T)0 ? (T)0 : x + (T)3 >= (T)6 ? (T)1 : (x + (T)3) / (T)6))
// NaN stays NaN, as ONNX Runtime has it.
EACH(relu, x < (T)0 ? (T)0 : x)
__device__ __forceinline__ bool logical_not(bool x) { return !x; }
template <class T> __device__ __forceinline__ T bitwise_not(T x) { return ~x; }
template <class T> __device__ __forceinline__ bool is_nan(T x) { return x != x; }
template <class T> __device__ __forceinline__ bool is_infinite(T x, T negative, T positive)
{
    return (negative != (T)0 && x == (T)-INFINITY) || (positive != (T)0 && x == (T)INFINITY);
}

PAIR(add, x + y)
PAIR(subtract, x - y)
PAIR(multiply, x * y)
PAIR(divide, x / y)
// NaN where one is NaN, as ONNX has it and C has not.
PAIR(smaller, x != x || x < y ? x : y)
PAIR(larger, x != x || x > y ? x : y)
PAIR(bitwise_and, x & y)
PAIR(bitwise_or, x | y)
PAIR(bitwise_xor, x ^ y)
PAIR(leaky_relu, x < (T)0 ? x * y : x)
PAIR(elu, x < (T)0 ? y * (exponential(x) - (T)1) : x)
PAIR(celu, x < (T)0 ? y * (exponential(x / y) - (T)1) : x)
PAIR(thresholded_relu, x > y ? x : (T)0)
// x * sigmoid(alpha * x)
PAIR(swish, x / ((T)1 + exponential(-y * x)))
TEST(equal, x == y)
TEST(less, x < y)
TEST(less_or_equal, x <= y)
TEST(greater, x > y)
TEST(greater_or_equal, x >= y)
__device__ __forceinline__ bool logical_and(bool x, bool y) { return x && y; }
__device__ __forceinline__ bool logical_or(bool x, bool y) { return x || y; }
__device__ __forceinline__ bool logical_xor(bool x, bool y) { return x != y; }

__device__ __forceinline__ float power(float x, float y) { return powf(x, y); }
__device__ __forceinline__ double power(double x, double y) { return pow(x, y); }
template <class T> __device__ __forceinline__ T power(T x, T y) { return (T)rint(pow((double)x, (double)y)); }

// The remainder with the sign of the divisor; fmod has that of the dividend.
template <class T> __device__ __forceinline__ T modulo(T x, T y)
{
    T rest = x % y;
    return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
}
__device__ __forceinline__ float modulo(float x, float y)
{
    float rest = fmodf(x, y);
    return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
}
__device__ __forceinline__ double modulo(double x, double y)
{
    double rest = fmod(x, y);
    return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
}
__device__ __forceinline__ float c_modulo(float x, float y) { return fmodf(x, y); }
__device__ __forceinline__ double c_modulo(double x, double y) { return fmod(x, y); }
template <class T> __device__ __forceinline__ T c_modulo(T x, T y) { return x % y; }

template <class T> __device__ __forceinline__ T shift_left(T x, T y) { return y >= (T)(8 * sizeof(T)) ? (T)0 : x << y; }
template <class T> __device__ __forceinline__ T shift_right(T x, T y) { return y >= (T)(8 * sizeof(T)) ? (T)0 : x >> y; }

template <class T> __device__ __forceinline__ T choose(bool condition, T x, T y) { return condition ? x : y; }
template <class T> __device__ __forceinline__ T clip(T x, T least, T most)
{
    T raised = x < least ? least : x;
    return raised > most ? most : raised;
}
template <class T> __device__ __forceinline__ T multiply_add(T x, T by, T plus) { return x * by + plus; }
template <class T> __device__ __forceinline__ T selu(T x, T alpha, T gamma)
{
    return gamma * (x > (T)0 ? x : alpha * (exponential(x) - (T)1));
}
template <class T> __device__ __forceinline__ T hard_sigmoid(T x, T alpha, T beta)
{
    T y = alpha * x + beta;
    return y < (T)0 ? (T)0 : y > (T)1 ? (T)1 : y;
}
template <class T> __device__ __forceinline__ T shrink(T x, T bias, T lambd) { return x < -lambd ? x + bias : x > lambd ? x - bias : (T)0; }
template <class T> __device__ __forceinline__ T soft_cap(T x, T cap) { return cap * hyperbolic_tangent(x / cap); }
// Rounded once, and rounded twice, whatever a compiler would make of the two.
__device__ __forceinline__ float multiply_add_rounded_once(float x, float by, float plus) { return __fmaf_rn(x, by, plus); }
__device__ __forceinline__ float multiply_add_rounded_twice(float x, float by, float plus) { return __fadd_rn(__fmul_rn(x, by), plus); }
// round(x / scale) + zero within the type's range.
template <class T> __device__ __forceinline__ T quantize(T x, T scale, T zero, T least, T most) { return clip(to_even(x / scale) + zero, least, most); }

// What is left of a number in a narrower type.
__device__ __forceinline__ int as_i8(int x) { return (i8)x; }
__device__ __forceinline__ int as_u8(int x) { return (u8)x; }
__device__ __forceinline__ int as_i16(int x) { return (i16)x; }
__device__ __forceinline__ int as_u16(int x) { return (u16)x; }
__device__ __forceinline__ float as_f16(float x) { return f16_to_float(float_to_f16(x)); }
__device__ __forceinline__ float as_bf16(float x) { return bf16_to_float(float_to_bf16(x)); }
__device__ __forceinline__ float as_f8e4m3(float x) { return float8_to_float<E4M3>(float_to_float8<E4M3>(x)); }
__device__ __forceinline__ float as_f8e5m2(float x) { return float8_to_float<E5M2>(float_to_float8<E5M2>(x)); }
// Beyond the range no number, where there is no infinity; half a step beyond the greatest one is the even one of two: itself there, and infinity here.
__device__ __forceinline__ float as_f8e4m3_unsaturated(float x)
{
    return absolute(x) > 464 ? __uint_as_float(__float_as_uint(x) | 0x7fffffff) : as_f8e4m3(x);
}
__device__ __forceinline__ float as_f8e5m2_unsaturated(float x) { return absolute(x) >= 61440 ? x * INFINITY : as_f8e5m2(x); }
