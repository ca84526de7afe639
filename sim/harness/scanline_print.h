// Verilator's library and the model print through this, so that the message of a failed assertion reaches who runs it.
#pragma once
int scanline_printf(const char* format, ...);
