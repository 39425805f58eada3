# Sourced by what trains in miniature. bfloat16 is twice as fast where the processor has it, and slower than float32 where it
# has not.
precision=fp32
if command -v nvidia-smi >/dev/null || grep -qsE 'avx512_bf16|amx_bf16|\bbf16\b' /proc/cpuinfo; then
    precision=bf16_autocast
fi
