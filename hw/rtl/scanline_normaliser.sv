// A channel's statistics and the compiler's constants become its requantisation parameters (hw/normalise.py): a bit of
// every product, quotient and root a cycle. Elements come in pairs, a record each; the second is taken when all is done.
module scanline_normaliser
  import scanline_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    // elements of a LOADW of kind NORM
    input  logic valid_i,
    output logic ready_o,
    input  logic [23:0] index_i,
    input  logic [63:0] data_i,
    // statistics
    output logic read_o,
    output logic [StatisticAddrBits-1:0] read_addr_o,
    input  statistic_t [CiLanes-1:0] statistics_i,
    // elements of kind PARAMETERS
    output logic write_o,
    output logic [23:0] index_o,
    output logic [63:0] data_o
);
  localparam int unsigned LaneIndexBits = (CiLanes > 1) ? $clog2(CiLanes) : 1;
  localparam int unsigned SpreadSteps = 32;   // bits of a total
  localparam int unsigned PlaceSteps = 8;     // most places
  localparam int unsigned BiasSteps = 30;     // a mean of up to 128, to 22 places
  localparam int unsigned RootSteps = 63;     // 32 bits behind up to 31 pairs of zeros
  localparam int unsigned QuotientSteps = 31;

  typedef enum logic [3:0] {
    First,
    Begin,
    Spread,
    Place,
    Offset,
    Root,
    Divide,
    Quotient,
    Bias,
    Multiplier
  } state_e;
  state_e state_q;
  logic [5:0] step_q;

  // The record: its first half is held, the second waits at the input.
  logic [63:0] first_q;
  norm_record_t record;
  assign record = {data_i, first_q};
  assign read_o = (state_q == First) && valid_i;
  norm_record_t arriving;
  assign arriving = {64'd0, data_i};
  assign read_addr_o = StatisticAddrBits'(arriving.word);
  statistic_t statistic;
  assign statistic = statistics_i[LaneIndexBits'(index_i[23:1])];

  // count * squares - total^2, both by bits of a factor from the highest down, then its places; then its root.
  logic [63:0] spread_q;
  logic [31:0] factor_q, total_q;  // what is left of the total's bits, and its magnitude
  logic [31:0] count_q;
  logic [37:0] squares_q;
  logic negative_q;
  logic [31:0] root_q;
  logic [34:0] remainder_q, remainder, trial;
  logic digit, complete;
  logic [5:0] zeros_q;  // pairs of them before the spread's first bit
  assign complete = root_q[31];
  always_comb begin
    remainder = {remainder_q[32:0], spread_q[63:62]};
    trial = {1'b0, root_q, 2'b01};
    digit = remainder >= trial;
  end

  // One divider: the mean while the spread is computed, the multiplier after the root.
  logic [32:0] rest_q, difference;
  logic [31:0] divisor_q;
  logic [30:0] quotient_q;
  logic [29:0] bias_q;
  logic goes;
  assign goes = rest_q >= {1'b0, divisor_q};
  assign difference = goes ? rest_q - {1'b0, divisor_q} : rest_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q <= First;
    end else begin
      unique case (state_q)
        First: if (valid_i) state_q <= Begin;
        Begin: if (valid_i) state_q <= Spread;
        Spread: if (step_q == 6'(SpreadSteps - 1)) state_q <= Place;
        Place: if (step_q == 6'(PlaceSteps - 1)) state_q <= Offset;
        Offset: state_q <= Root;
        Root: if (step_q == 6'(RootSteps - 1)) state_q <= Divide;
        Divide: state_q <= Quotient;
        Quotient: if (step_q == 6'(QuotientSteps - 1)) state_q <= Bias;
        Bias: state_q <= Multiplier;
        Multiplier: state_q <= First;
        default: state_q <= First;
      endcase
    end
  end

  always_ff @(posedge clk_i) begin
    step_q <= step_q + 6'd1;
    unique case (state_q)
      First: first_q <= data_i;
      Begin: begin
        logic [31:0] magnitude;
        magnitude = statistic.total[31] ? 32'(-statistic.total) : 32'(statistic.total);
        negative_q <= statistic.total[31];
        total_q <= magnitude;
        factor_q <= magnitude;
        count_q <= 32'(record.count);
        squares_q <= statistic.squares;
        spread_q <= '0;
        step_q <= '0;
        rest_q <= {1'b0, magnitude};
        divisor_q <= {1'b0, record.count, 7'd0};
      end
      Spread: begin
        spread_q <= (spread_q << 1) + (count_q[31] ? 64'(squares_q) : '0) - (factor_q[31] ? 64'(total_q) : '0);
        count_q <= count_q << 1;
        factor_q <= factor_q << 1;
        if (step_q == 6'(BiasSteps - 1)) bias_q <= {quotient_q[28:0], goes};
        if (step_q == 6'(SpreadSteps - 1)) step_q <= '0;
      end
      Place: begin
        if (step_q < 6'(record.places)) spread_q <= spread_q << 2;
        if (step_q == 6'(PlaceSteps - 1)) step_q <= '0;
      end
      Offset: begin
        spread_q <= spread_q + 64'(record.epsilon);
        root_q <= '0;
        remainder_q <= '0;
        zeros_q <= '0;
        step_q <= '0;
      end
      Root:
      if (!complete) begin
        spread_q <= spread_q << 2;
        remainder_q <= digit ? remainder - trial : remainder;
        root_q <= {root_q[30:0], digit};
        if (root_q == '0 && !digit) zeros_q <= zeros_q + 6'd1;
      end
      Divide: begin
        step_q <= '0;
        rest_q <= {1'b0, record.multiplier, 1'b0};
        divisor_q <= root_q;
      end
      default: ;
    endcase
    if (state_q == Spread || state_q == Quotient) begin
      rest_q <= difference << 1;
      quotient_q <= {quotient_q[29:0], goes};
    end
  end

  logic [31:0] bias, multiplier;
  logic [5:0] shift;
  assign bias = negative_q ? 32'(bias_q) : -32'(bias_q);
  assign multiplier = {1'b0, quotient_q};
  assign shift = 6'd31 + 6'(record.shift) - zeros_q;
  assign ready_o = (state_q == First) || (state_q == Multiplier);
  assign write_o = (state_q == Bias) || (state_q == Multiplier);
  assign index_o = {index_i[23:1], state_q == Multiplier};
  assign data_o = (state_q == Multiplier) ? {26'd0, shift, multiplier} : {multiplier, bias};

  logic unused;
  assign unused = record.reserved ^ (^arriving) ^ index_i[0] ^ remainder_q[34] ^ remainder_q[33] ^ (^record.word);

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  `SCANLINE_HANDSHAKE(Record, valid_i, ready_o, ({index_i, data_i}), 1'b0)
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(StateKnown, state_q <= Multiplier)
      `SCANLINE_ASSERT(RecordWaits, (state_q == First) || (state_q == Begin) || valid_i)
      `SCANLINE_ASSERT(StepBound, ((state_q != Spread) || (32'(step_q) < SpreadSteps)) &&
          ((state_q != Place) || (32'(step_q) < PlaceSteps)) && ((state_q != Root) || (32'(step_q) < RootSteps)) &&
          ((state_q != Quotient) || (32'(step_q) < QuotientSteps)))
      `SCANLINE_ASSERT(DivisorNotZero, (state_q != Divide) || root_q[31])
      `SCANLINE_ASSERT(RestBelow, (state_q != Quotient) || (rest_q < {divisor_q, 1'b0}))
      `SCANLINE_ASSERT(PlacesBound, (state_q != Place) || (32'(record.places) <= PlaceSteps))
      `SCANLINE_ASSERT(PairsOfElements, !write_o || (index_o[0] == (state_q == Multiplier)))
    end
  end
`endif
endmodule
