package fstest

import "slices"

// Cases returns the cases for a writable target.
func Cases() []Case {
	return slices.Concat(nameCases, renameCases, openCases, dataCases, spaceCases, attrCases, timeCases,
		dirCases, xattrCases, identityCases, accessCases, kernelCases)
}
