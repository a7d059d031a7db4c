"""PTX of CUDA C, by a libnvrtc.so of any release: nvrtc.py LIBDIR SOURCE ARCH OUT"""

import ctypes
import glob
import sys
import zlib

libdir, source, arch, out = sys.argv[1:]
for name in ("builtins*.so", ".so"):
    path = sorted(glob.glob(f"{libdir}/libnvrtc{'-' if name[0] == 'b' else ''}{name}.*"))[0]
    nvrtc = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


def call(name, *args):
    code = getattr(nvrtc, name)(*args)
    if code != 0:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        sys.exit(f"{name}: {nvrtc.nvrtcGetErrorString(code).decode()}")


def text(size, get):
    length = ctypes.c_size_t()
    call(size, program, ctypes.byref(length))
    buffer = ctypes.create_string_buffer(length.value)
    call(get, program, buffer)
    return buffer.value.decode()


with open(source, "rb") as file:
    code = file.read()
program = ctypes.c_void_p()
call("nvrtcCreateProgram", ctypes.byref(program), code, b"payload.cu", 0, None, None)
options = (ctypes.c_char_p * 1)(f"--gpu-architecture={arch}".encode())
failed = nvrtc.nvrtcCompileProgram(program, 1, options)
sys.stderr.write(text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog"))
if failed:
    sys.exit(1)
ptx = text("nvrtcGetPTXSize", "nvrtcGetPTX")
with open(out, "w") as file:
    # An edit of the source shows by the first number, one of the PTX itself by the second.
    file.write(f"// crc32 of payload.cu: {zlib.crc32(code):08x}\n")
    file.write(f"// crc32 of what follows: {zlib.crc32(ptx.encode()):08x}\n{ptx}")
