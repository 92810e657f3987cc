package placement

import (
	"math/bits"
	"net/netip"
	"strconv"
)

// commonPrefixBits is the length of the prefix that two IP addresses share, 0 when either is a name or they are of
// different families: nothing is known of their distance then.
// Source: GFS 3.2 (distances are estimated from IP addresses)
func commonPrefixBits(a, b string) int {
	addressA, errA := netip.ParseAddr(a)
	addressB, errB := netip.ParseAddr(b)
	if errA != nil || errB != nil || addressA.Is4() != addressB.Is4() {
		return 0
	}
	bytesA, bytesB := addressA.AsSlice(), addressB.AsSlice()
	common := 0
	for i := range bytesA {
		equal := bits.LeadingZeros8(bytesA[i] ^ bytesB[i])
		common += equal
		if equal < 8 {
			break
		}
	}
	return common
}

func itoa(n int) string { return strconv.Itoa(n) }
