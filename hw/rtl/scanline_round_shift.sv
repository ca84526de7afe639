// product / 2**shift, rounded half to even, once: numerics.round_shift.
module scanline_round_shift #(
    parameter int unsigned Width = 64
) (
    input  logic signed [Width-1:0] product_i,
    input  logic [5:0]              shift_i,
    output logic signed [Width-1:0] rounded_o
);
  logic signed [Width-1:0] quotient;
  logic [Width-1:0] half, below;
  logic up;
  always_comb begin
    quotient = product_i >>> shift_i;
    half = (Width'(1) << shift_i) >> 1;
    below = product_i & (half - Width'(1));
    up = (half != '0) && ((product_i & half) != '0) && ((below != '0) || quotient[0]);
    rounded_o = quotient + signed'(Width'(up));
    if (32'(shift_i) >= Width) rounded_o = '0;  // half a unit at most
  end
endmodule
